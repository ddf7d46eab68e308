"""The form of a quantised network: an ordinary module whose layers know their steps.

    attach(network, decisions)            # steps of one, nothing rounded yet
    layers = quantised_layers(network)    # {"conv1": Conv2d(...), ...}

A quantised layer keeps its class and its kernels. With up to 8 bits a kernel w (outputs, ...)
has a buffer beside it, its step Δ (outputs,), and holds multiples of it: w = Δ q with whole
numbers |q| < 2^(bits-1), symmetric, a step for every output channel. What a layer reads is
x = Δ (q - z) with 0 ≤ q < 2^bits, one step Δ and one zero point z for all, in the buffers
`input_step` and `input_zero`; it is rounded as the layer is called. 16 bits are half
precision. Steps and zero points are buffers, so a state that is saved holds all of it.

So every runtime can be given the whole numbers themselves, and what PyTorch computes with this
form is what they compute, up to how they round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.policy import WHOLE_NUMBERS, LayerDecision
from autoprune.quantization.hooks import input_of, with_input
from autoprune.quantization.straight_through import rounded

INPUT_STEP, INPUT_ZERO = "input_step", "input_zero"
_MARK, _PAUSED = "quantised_by", "reads_unrounded"
Steps = Mapping[str, Tensor]
"""Steps and zero points by their names in the state of a quantised network."""


def kernels_of(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the kernels of a layer by their names within it: its parameters but biases."""
    return {
        name: each
        for name, each in layer.named_parameters(recurse=False)
        # Attention has biases of three dimensions.
        if each.dim() > 1 and not name.startswith("bias")
    }


def step_name(kernel: str) -> str:
    """Return the name of the buffer that holds a kernel's steps."""
    return f"{kernel}_step"


def state_name(layer: str, buffer: str) -> str:
    """Return the name of a layer's buffer in the state of its network."""
    return f"{layer}.{buffer}" if layer else buffer


def attach(network: nn.Module, decisions: Mapping[str, LayerDecision]) -> None:
    """Give layers their steps, all of them one, and let them round what they read, in place.

    `decisions` name modules of `network`; those with 32 bits alone are passed over.
    """
    for name, decision in decisions.items():
        if not decision.is_quantised:
            continue
        layer = network.get_submodule(name)
        setattr(layer, _MARK, decision)
        for kernel, weight in kernels_of(layer).items():
            if decision.weight_bits <= WHOLE_NUMBERS:
                steps = torch.ones(len(weight), device=weight.device)
                layer.register_buffer(step_name(kernel), steps)
        if decision.activation_bits <= WHOLE_NUMBERS:
            layer.register_buffer(INPUT_STEP, torch.ones((), device=_device(layer)))
            layer.register_buffer(INPUT_ZERO, torch.zeros((), device=_device(layer)))
        if decision.activation_bits < 32:
            layer.register_forward_pre_hook(_round_input, with_kwargs=True)


def detach(layer: nn.Module) -> None:
    """Make a quantised layer an ordinary one, in place; kernels keep what they were rounded to."""
    for key in [x for x, each in layer._forward_pre_hooks.items() if each is _round_input]:
        del layer._forward_pre_hooks[key]
        layer._forward_pre_hooks_with_kwargs.pop(key, None)
    steps = {INPUT_STEP, INPUT_ZERO, *(step_name(kernel) for kernel in kernels_of(layer))}
    for name in steps & dict(layer.named_buffers(recurse=False)).keys():
        delattr(layer, name)
    delattr(layer, _MARK)


def quantised_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the quantised layers of a network by name, in its order."""
    return {name: each for name, each in network.named_modules() if hasattr(each, _MARK)}


def decision_of(layer: nn.Module) -> LayerDecision:
    """Return what was decided about a quantised layer."""
    decision: LayerDecision = getattr(layer, _MARK)
    return decision


def bounds(bits: int) -> tuple[int, int]:
    """Return the least and the greatest whole number that a kernel holds: ±(2^(bits-1) - 1)."""
    most: int = 2 ** (bits - 1) - 1
    return -most, most


@contextmanager
def unrounded(network: nn.Module) -> Iterator[None]:
    """Let the layers of a quantised network read what they are given, while this lasts."""
    layers = quantised_layers(network).values()
    for each in layers:
        setattr(each, _PAUSED, True)
    try:
        yield
    finally:
        for each in layers:
            delattr(each, _PAUSED)


def rounded_input(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a quantised layer makes of its inputs."""
    bits = decision_of(layer).activation_bits
    if bits > WHOLE_NUMBERS:
        return inputs.half().to(inputs.dtype)
    step, zero = getattr(layer, INPUT_STEP), getattr(layer, INPUT_ZERO)
    # z is taken out of the bounds, so that nothing but the step is multiplied back.
    return rounded(inputs, step, -zero, 2**bits - 1 - zero)


def _round_input(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if hasattr(layer, _PAUSED):
        return None
    return with_input(args, kwargs, rounded_input(layer, input_of(args, kwargs)))


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device
