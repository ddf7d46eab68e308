"""Small networks for tests of criteria, with units whose worth can be computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.tracing.discovery import discover


def evidence_of(model: nn.Module, inputs: Tensor) -> Evidence:
    return Evidence(model, discover(model.eval(), inputs[:2]).groups, Samples(inputs))


def dense() -> Evidence:
    """Four units that are read as (1, 2, 3, 0) and (3, 0, 3, 0)."""
    first, second = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]]))
        second.weight.copy_(torch.tensor([[1.0, 2, 0, 1], [0, 1, -1, 5]]))
    return evidence_of(nn.Sequential(first, nn.ReLU(), second), torch.tensor([[1.0, 2], [3, 0]]))


def mixing(rows: list[list[float]], inputs: Tensor) -> Evidence:
    """Four maps, each a mixture of those of the inputs, read by a convolution."""
    first, second = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor(rows)[..., None, None])
    head = nn.AdaptiveAvgPool2d(1)
    return evidence_of(nn.Sequential(first, second, nn.ReLU(), head, nn.Flatten()), inputs)


class Residual(nn.Module):
    """Two convolutions and a linear layer read the stem's group; another scale each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.outer, self.head = nn.Conv2d(6, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = 10 * (x + self.outer(self.inner(x).relu())).relu()
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.embed(x)).mean(dim=1))
        return logits


def residual() -> Evidence:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return evidence_of(Residual(), torch.randn(24, 2, 4, 4))


def encoder() -> Evidence:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return evidence_of(Encoder(), torch.randn(24, 5, 6))


def read_by(evidence: Evidence, module: str) -> Tensor:
    """Return what a module reads."""
    seen: list[Tensor] = []
    assert evidence.samples is not None
    watched = evidence.model.get_submodule(module)
    handle = watched.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        evidence.model(evidence.samples.inputs)
    handle.remove()
    return seen[0].double()
