"""A network of what NNI's exporter knows beyond our catalog: concatenation, one dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branching(nn.Module):
    """Two branches that are concatenated, a sum, and batch norms over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv1d(3, 12, 3, padding=1)
        self.left_bn = nn.BatchNorm1d(12)
        self.right = nn.Conv1d(3, 20, 1, bias=False)
        self.right_bn = nn.BatchNorm1d(20)
        self.mix = nn.Conv1d(32, 24, 3, padding=1)
        self.shortcut = nn.Conv1d(3, 24, 1)
        self.hidden = nn.Linear(24 * 8, 40)
        self.hidden_bn = nn.BatchNorm1d(40)
        self.output = nn.Linear(40, 5)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (n, 3, 8) to logits (n, 5)."""
        left = self.left_bn(self.left(signals)).relu()
        right = self.right_bn(self.right(signals)).relu()
        mixed = (self.mix(torch.cat([left, right], 1)) + self.shortcut(signals)).relu()
        logits: Tensor = self.output(self.hidden_bn(self.hidden(mixed.flatten(1))).relu())
        return logits
