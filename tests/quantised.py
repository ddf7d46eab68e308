"""Quantised networks as tests need them: least and greatest values make steps, by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.policy import LayerDecision
from autoprune.quantization.form import (
    attach,
    bounds,
    decision_of,
    kernels_of,
    quantised_layers,
    step_name,
)


@torch.no_grad()
def quantised(
    network: nn.Module, inputs: Tensor, decisions: Mapping[str, LayerDecision]
) -> nn.Module:
    """Return a quantised copy of a network in eval mode."""
    made = copy.deepcopy(network).eval().requires_grad_(False)
    ranges = _ranges(made, inputs, decisions)
    attach(made, decisions)
    for name, layer in quantised_layers(made).items():
        decision = decision_of(layer)
        for kernel, weight in kernels_of(layer).items():
            if decision.weight_bits == 16:
                weight.copy_(weight.half().float())
            elif decision.weight_bits <= 8:
                most = bounds(decision.weight_bits)[1]
                steps = (weight.flatten(1).abs().amax(1) / most).clamp(min=1e-12)
                getattr(layer, step_name(kernel)).copy_(steps)
                steps = steps.view(-1, *[1] * (weight.dim() - 1))
                weight.copy_(torch.round(weight / steps) * steps)
        if decision.activation_bits <= 8:
            low, high = ranges[name]
            step = (high - low) / (2**decision.activation_bits - 1)
            layer.input_step.fill_(step)  # type: ignore[operator, union-attr]
            layer.input_zero.fill_(round(-low / step))  # type: ignore[operator, union-attr]
    return made


def every(network: nn.Module, decision: LayerDecision) -> dict[str, LayerDecision]:
    """Return one decision about all convolutions and linear layers."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return {x: decision for x, each in network.named_modules() if type(each) in kinds}


def _ranges(
    network: nn.Module, inputs: Tensor, names: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        low, high = found.get(name, (0.0, 0.0))
        found[name] = min(low, float(args[0].min())), max(high, float(args[0].max()))

    hooks = [
        network.get_submodule(name).register_forward_pre_hook(partial(note, name))
        for name in names
        if not isinstance(network.get_submodule(name), nn.RNNBase | nn.MultiheadAttention)
    ]
    network(inputs)
    for each in hooks:
        each.remove()
    return found
