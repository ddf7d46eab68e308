"""A network that keeps what it has computed, which must not outlive a pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Remembering(nn.Module):
    """Keeps in eval mode what it has computed from a parameter, as some attention does."""

    forget_at_once = False

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.scale = nn.Linear(4, 5), nn.Parameter(torch.linspace(0.5, 1.5, 5)[None])
        self.out = nn.Linear(5, 3)
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> Remembering:
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.kept
        if factor is None:
            factor = self.scale.exp()
            self.kept = None if self.training or self.forget_at_once else factor
        logits: Tensor = self.out(torch.relu(self.hidden(x)) * factor)
        return logits
