"""What is to be gained beyond a front."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

# Points that the gain in hypervolume is averaged over, and the least deviation, as a share.
_POINTS = 512
_CERTAIN = 1e-9


class Staircase:
    """What is to be gained beyond a front, in the box between an ideal and a worst corner.

    Emmerich et al., "Hypervolume-based expected improvement", CEC 2011: over evenly spread
    points in all goals but one, by how much a result is expected to lower what the front
    reaches in that one, `own`. Predicted goals are taken as independent.
    """

    def __init__(self, ideal: np.ndarray, corner: np.ndarray, own: int) -> None:
        self._ideal = ideal
        self._span = np.where(corner > ideal, corner - ideal, 1.0)
        self._own = own
        self._others = np.delete(np.arange(len(corner)), own)
        self._points = spread_points(len(self._others))
        self._reached = np.full(len(self._points), ((corner - ideal) / self._span)[own])

    def add(self, losses: np.ndarray) -> None:
        """Let a result with these losses, shape (goals,), lower what is reached."""
        scaled = (losses - self._ideal) / self._span
        as_good = (scaled[self._others] <= self._points).all(axis=1)
        self._reached[as_good] = np.minimum(self._reached[as_good], scaled[self._own])

    def gains(self, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
        """Return the expected gains in hypervolume, as shares of the box, shape (n,)."""
        scaled = (means - self._ideal) / self._span
        spread = np.maximum(deviations / self._span, _CERTAIN)
        gaps = (self._reached - scaled[:, [self._own]]) / spread[:, [self._own]]
        density = np.exp(-0.5 * gaps**2) / np.sqrt(2.0 * np.pi)
        gained = spread[:, [self._own]] * (gaps * ndtr(gaps) + density)
        for column, goal in enumerate(self._others):
            reaches = self._points[:, column] - scaled[:, [goal]]
            gained = gained * ndtr(reaches / spread[:, [goal]])
        gains: np.ndarray = gained.mean(axis=1)
        return gains


def spread_points(dimensions: int) -> np.ndarray:
    """Return evenly spread points of the unit cube, shape (n, dimensions).

    Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018: multiples of
    powers of the root of x^(d+1) = x + 1.
    """
    if not dimensions:
        return np.zeros((1, 0))
    root = 2.0
    for _ in range(50):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return (0.5 + np.arange(_POINTS)[:, None] * steps) % 1.0
