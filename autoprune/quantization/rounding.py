"""Rounding the kernels of a quantised network to the nearest whole numbers of steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import NonFiniteError
from autoprune.policy import WHOLE_NUMBERS
from autoprune.quantization.form import (
    Steps,
    decision_of,
    kernels_of,
    quantised_layers,
    state_name,
    step_name,
)
from autoprune.quantization.kernel_steps import WeightObserver, kernel_steps, nearest


@torch.no_grad()
def set_kernel_steps(network: nn.Module, *, observer: WeightObserver, steps: Steps) -> None:
    """Set the steps of all kernels with up to 8 bits, in place.

    `steps` are those that are known already. Raises `NonFiniteError` naming the layer whose
    kernel holds NaN or infinity.
    """
    for name, layer in quantised_layers(network).items():
        bits = decision_of(layer).weight_bits
        for kernel, weight in kernels_of(layer).items():
            if bits > WHOLE_NUMBERS:
                continue
            if not weight.isfinite().all():
                raise NonFiniteError(f"{kernel} of layer {name!r} holds NaN or infinity")
            found = steps.get(state_name(name, step_name(kernel)))
            if found is None:
                found = kernel_steps(weight, bits, observer)
            getattr(layer, step_name(kernel)).copy_(found)


@torch.no_grad()
def round_kernels(network: nn.Module) -> None:
    """Round all kernels of a quantised network, whose steps are set, to the nearest, in place."""
    for layer in quantised_layers(network).values():
        round_layer(layer)


def round_layer(layer: nn.Module) -> None:
    """Round the kernels of a quantised layer to the nearest multiples of their steps."""
    bits = decision_of(layer).weight_bits
    for kernel, weight in kernels_of(layer).items():
        if bits <= WHOLE_NUMBERS:
            steps: Tensor = getattr(layer, step_name(kernel))
            whole = nearest(weight, steps, bits)
            weight.copy_(whole * steps.view(-1, *[1] * (weight.dim() - 1)))
        elif bits < 32:
            weight.copy_(weight.half())
