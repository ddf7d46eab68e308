"""Layers apart from their network: the same convolution or linear layer at other widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.runtimes.torch_runtime import evaluating, is_channels_last, laid_out_like

_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


@dataclass(frozen=True)
class LayerKind:
    """What the time of a layer depends on; layers that are equal in it are timed once.

    `inputs` and `outputs` are its widths in the dense network; those of a convolution in groups
    are the inputs of one group, and `step` outputs make up a group. A narrower one has fewer
    groups, so what is depthwise stays so. `sizes` are the other dimensions of its input, batch
    first.
    """

    layer: type[nn.Module]
    inputs: int
    outputs: int
    step: int
    is_grouped: bool
    sizes: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    channels_last: bool
    device: torch.device

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one pass, as if nothing were padded."""
        options = dict(self.options)
        kernel = int(math.prod(options.get("kernel_size", ())))
        stride = int(math.prod(options.get("stride", ())))
        return self.inputs * self.outputs * kernel * math.prod(self.sizes) // stride

    def build(self, inputs: int, outputs: int) -> tuple[nn.Module, Tensor]:
        """Return the layer at other widths and an input for it, both seeded.

        `outputs` is a multiple of `step`.
        """
        groups = outputs // self.step if self.is_grouped else 1
        shape = (self.sizes[0], groups * inputs, *self.sizes[1:])
        options = dict(self.options)
        if self.layer is nn.Linear:
            shape = (*self.sizes, inputs)
        else:
            options["groups"] = groups
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            made: nn.Module = self.layer(groups * inputs, outputs, **options)
            example = torch.randn(shape)
        if self.channels_last:
            made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            example = example.contiguous(memory_format=torch.channels_last)
        return made.to(self.device).requires_grad_(False).eval(), example.to(self.device)


def layer_kinds(network: nn.Module, example: Tensor) -> dict[str, list[LayerKind]]:
    """Return the kinds of all convolutions (1-d, 2-d) and linear layers, one for every call.

    By module name, in the order of the forward pass; the network is left as it was.
    """
    found: dict[str, list[LayerKind]] = {}

    def note(name: str, layer: Any, arguments: tuple[Any, ...]) -> None:
        found.setdefault(name, []).append(_kind(layer, arguments[0]))

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in network.named_modules()
        if type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d)
    ]
    try:
        with evaluating(network):
            network(laid_out_like(network, example))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _kind(layer: Any, inputs: Tensor) -> LayerKind:
    options = {"bias": layer.bias is not None}
    shape = tuple(inputs.shape)
    if isinstance(layer, nn.Linear):
        widths, groups = (layer.in_features, layer.out_features), 1
        sizes = shape[:-1]
    else:
        widths, groups = (layer.in_channels // layer.groups, layer.out_channels), layer.groups
        sizes = (shape[0], *shape[2:])
        options |= {name: getattr(layer, name) for name in _OPTIONS}
    return LayerKind(
        type(layer),
        *widths,
        step=widths[1] // groups if groups > 1 else 1,
        is_grouped=groups > 1,
        sizes=sizes,
        options=tuple(options.items()),
        channels_last=is_channels_last(inputs),
        device=inputs.device,
    )
