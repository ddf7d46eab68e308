"""The same network without its rounding: what is converted before whole numbers are put in."""

from __future__ import annotations

import copy

from torch import nn

from autoprune.policy import LayerDecision
from autoprune.quantization import form
from autoprune.quantization.form import INPUT_STEP, INPUT_ZERO, quantised_layers


def in_single_precision(network: nn.Module) -> nn.Module:
    """Return a copy that rounds nothing it reads and shares all tensors with `network`.

    Kernels keep the values that they were rounded to. A network that is not quantised is
    returned as it is.
    """
    if not quantised_layers(network):
        return network
    memo: dict[int, object] = {id(each): each for each in network.parameters()}
    memo |= {id(each): each for each in network.buffers()}
    twin = copy.deepcopy(network, memo)
    for layer in quantised_layers(twin).values():
        hooks = layer._forward_pre_hooks
        for key in [x for x, each in hooks.items() if each.__module__ == form.__name__]:
            del hooks[key]
        for name in [x for x, _ in layer.named_buffers(recurse=False) if _is_step(x)]:
            delattr(layer, name)
        for name in [x for x, each in vars(layer).items() if isinstance(each, LayerDecision)]:
            delattr(layer, name)
    return twin


def _is_step(buffer: str) -> bool:
    return buffer in (INPUT_STEP, INPUT_ZERO) or buffer.endswith(form.step_name(""))
