"""Which layers a network runs, in which order, and what each one costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.graph.cost import LayerCost

Weighted = _ConvNd | nn.Linear
Normalising = _BatchNorm


@dataclass
class LayerTrace:
    """Layers in the order of their first call, and at how many positions of a sample each runs."""

    positions: dict[str, int] = field(default_factory=dict)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and restore each one's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace_layers(model: nn.Module, example: Tensor) -> LayerTrace:
    """Run `example` (batch, ...) once and record every convolution, linear layer and norm."""
    trace = LayerTrace()
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A transposed convolution multiplies once per tap at each position of its *input*.
        counted = inputs[0] if isinstance(module, _ConvTransposeNd) else output
        channel_axis = -1 if isinstance(module, nn.Linear) else 1
        # Per sample of the network: inside, windows or tokens may be folded into the batch.
        positions = counted.numel() // (example.shape[0] * counted.shape[channel_axis])
        name = names[module]
        trace.positions[name] = trace.positions.get(name, 0) + positions

    hooks = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, Weighted | Normalising)
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return trace


def layer_cost(name: str, module: nn.Module, positions: int) -> LayerCost:
    """Return the cost row of a convolution, linear layer or batch norm."""
    if isinstance(module, _ConvNd):
        return LayerCost(
            name,
            module.in_channels,
            module.out_channels,
            taps=int(torch.tensor(module.kernel_size).prod()),
            positions=positions,
            conv_groups=module.groups,
            per_out=int(module.bias is not None),
        )
    if isinstance(module, nn.Linear):
        bias = int(module.bias is not None)
        return LayerCost(
            name, module.in_features, module.out_features, 1, positions, 1, per_out=bias
        )
    assert isinstance(module, _BatchNorm)
    return LayerCost(
        name,
        0,
        module.num_features,
        taps=0,
        positions=positions,
        conv_groups=1,
        per_out=2 if module.affine else 0,
        buffers_per_out=2 if module.track_running_stats else 0,
    )
