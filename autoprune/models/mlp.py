"""A multilayer perceptron for rows of numbers."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (256, 128)


class Mlp(nn.Module):
    """Two hidden layers with ReLU; the neurons of both can be pruned."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        first, second = WIDTHS
        self.hidden1 = nn.Linear(features, first)
        self.hidden2 = nn.Linear(first, second)
        self.output = nn.Linear(second, num_classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (n, features) to logits (n, num_classes)."""
        logits: Tensor = self.output(self.hidden2(self.hidden1(rows).relu()).relu())
        return logits
