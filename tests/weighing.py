"""Small networks with values of their own, and evidence of their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.scoring.evidence import Evidence
from autoprune.tracing.discovery import discover


class Residual(nn.Module):
    """A stem of four channels that a block of two kernels is added to, each with a norm."""

    def __init__(self, stem_norm: nn.Module, last_norm: nn.Module, inputs: int = 3) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(inputs, 4, 3, padding=1), stem_norm
        self.one, self.two = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 3, padding=1)
        self.last_norm, self.out = last_norm, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = x + self.last_norm(self.two(torch.relu(self.one(x))))
        return self.out(x.mean((2, 3)))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return lively(nn.Sequential(nn.Linear(6, 8), layer, nn.Flatten(), nn.Linear(40, 3)))


def seen(model: nn.Module, *shape: int) -> Evidence:
    """Return evidence of a network in eval mode that reads inputs of this shape."""
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    return Evidence(model.eval(), discover(model, inputs).groups)


@torch.no_grad()
def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network with values of its own in every parameter and statistic."""
    generator = torch.Generator().manual_seed(seed)
    for name, each in model.state_dict().items():
        if each.is_floating_point():
            each.copy_(torch.randn(each.shape, generator=generator) * 0.5 + 0.1)
        if name.endswith("running_var"):
            each.abs_().add_(0.2)
    return model


@torch.no_grad()
def put(tensor: Tensor, values: Sequence[float] | Sequence[Sequence[float]]) -> None:
    tensor.copy_(torch.tensor(values).reshape(tensor.shape))
