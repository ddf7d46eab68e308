"""The same network without its rounding: what is converted before whole numbers are put in."""

from __future__ import annotations

import copy

from torch import nn

from autoprune.quantization.form import detach, quantised_layers


def in_single_precision(network: nn.Module) -> nn.Module:
    """Return a copy that rounds nothing it reads and shares all tensors with `network`.

    Kernels keep the values that they were rounded to. A network that is not quantised is
    returned as it is.
    """
    if not quantised_layers(network):
        return network
    twin = shared_copy(network)
    for layer in quantised_layers(twin).values():
        detach(layer)
    return twin


def shared_copy(network: nn.Module) -> nn.Module:
    """Return a copy that shares all tensors with `network`."""
    memo: dict[int, object] = {id(each): each for each in network.parameters()}
    memo |= {id(each): each for each in network.buffers()}
    return copy.deepcopy(network, memo)
