"""Small networks with every shape of connection that discovery follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Chain(nn.Module):
    """Convolutions in a row, then a flatten with spatial extent."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.hidden = nn.Linear(4 * 4 * 4, 10)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.out(torch.relu(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    """A stem whose channels run through a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.two = nn.Conv2d(5, 8, 3, padding=1)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))
        return self.out(x.mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise convolution between two pointwise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 4, 1)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.depth(torch.relu(self.expand(x)))))
        return self.out(torch.relu(self.project(x)).mean((2, 3)))


class Concat(nn.Module):
    """Two branches side by side, read at an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 6, 1)
        self.mix = nn.Conv2d(10, 5, 1)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], dim=1))
        return self.out(torch.relu(self.mix(x)).mean((2, 3)))


ALL = (Chain, Residual, Depthwise, Concat)


def built(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """Return a seeded network in eval mode with lively batch norms, and two inputs."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
    return network, torch.randn(2, 3, 8, 8, generator=generator)
