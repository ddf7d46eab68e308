"""What the losses of a training tell: that it broke, or that it gets nowhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import NonFiniteError

# Reading a loss waits for the device; a GPU is asked for this many at once.
_SPAN_ON_GPU = 10


class Losses:
    """Takes the loss of every step in turn.

    A plateau is reached when the mean of `patience` losses in a row is no lower than the
    lowest mean of as many before them; without `patience` never. It is the training loss
    that is watched: it costs nothing, and no image has to be held back from training.
    """

    def __init__(self, device: torch.device, patience: int | None) -> None:
        self.patience = patience
        self.is_on_plateau = False
        self._span = _SPAN_ON_GPU if device.type == "cuda" else 1
        self._unread: list[Tensor] = []
        self._lowest: float | None = None
        self._sum = 0.0

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step; raises `NonFiniteError` naming the first one that is none."""
        self._unread.append(loss.detach())
        ends_window = self.patience is not None and (step + 1) % self.patience == 0
        if ends_window or (step + 1) % self._span == 0:
            self.read(step + 1)
        if ends_window:
            lowest = math.inf if self._lowest is None else self._lowest
            self.is_on_plateau = self._sum >= lowest
            self._lowest = min(lowest, self._sum)
            self._sum = 0.0

    def read(self, step: int) -> None:
        """Read what is unread of the losses before `step`."""
        values = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for place, value in enumerate(values):
            if not math.isfinite(value):
                at = step - len(values) + place
                raise NonFiniteError(f"the loss is {value} at fine-tuning step {at}")
            self._sum += value

    @property
    def is_read(self) -> bool:
        """Say whether every loss was read, so that `to_json` tells all."""
        return not self._unread

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `load` goes on from."""
        return {"lowest": self._lowest, "sum": self._sum, "is_on_plateau": self.is_on_plateau}

    def load(self, body: Mapping[str, Any]) -> None:
        """Go on from the losses of another training."""
        self._lowest, self._sum = body["lowest"], body["sum"]
        self.is_on_plateau = body["is_on_plateau"]
