"""Mean and variance of the channels that a kernel reads, gathered batch by batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class ChannelMoments:
    """First and second moments of channels over all that was added.

    They are sums of distances from the first value of every channel, so a channel that never
    changes has a variance of zero, whatever its value.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first = torch.empty(0)
        self._sum = torch.empty(0)
        self._square = torch.empty(0)

    def add(self, values: Tensor, axis: int) -> None:
        """Take values of any shape, whose dimension `axis` holds the channels."""
        before, channels = math.prod(values.shape[:axis]), values.shape[axis]
        values = values.detach().float().reshape(before, channels, -1)
        if self._count == 0:
            self._first = values[0, :, 0].clone()
            self._sum = torch.zeros_like(self._first, dtype=torch.float64)
            self._square = self._sum.clone()
        away = values - self._first[:, None]
        self._count += values.numel() // channels
        self._sum += away.sum((0, 2), dtype=torch.float64)
        self._square += away.square_().sum((0, 2), dtype=torch.float64)

    @property
    def variance(self) -> np.ndarray:
        """The mean squared distance from the mean, float64 (channels,)."""
        mean = self._sum / self._count
        return _array((self._square / self._count - mean.square()).clamp(min=0.0))

    @property
    def norm(self) -> np.ndarray:
        """The root of the mean square, float64 (channels,)."""
        mean = self._first.double() + self._sum / self._count
        root: np.ndarray = np.sqrt(_array(mean.square()) + self.variance)
        return root


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
