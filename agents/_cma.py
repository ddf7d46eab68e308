"""CMA-ES: a normal distribution that moves to, and takes the shape of, what was best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_STATE = ("mean", "sigma", "cov", "sigma_path", "cov_path", "generation")


def population_of(n: int) -> int:
    """Return how many points a generation of dimension `n` needs."""
    return 4 + int(3 * math.log(n))


class CMA:
    """The (mu/mu_w, lambda) strategy of Hansen, "The CMA Evolution Strategy: A Tutorial", 2016.

    Points of any origin may be learned from: steps that are longer than samples are get
    shortened (Hansen, "Injecting external solutions into CMA-ES", 2011).

    Args:
        mean: Where to begin, shape (n,).
        sigma: Standard deviation to begin with, in every coordinate.
        floor: Standard deviation below which no coordinate falls, shape (n,).
    """

    def __init__(self, mean: np.ndarray, sigma: float, floor: np.ndarray) -> None:
        n = len(mean)
        self.mean = mean.astype(np.float64)
        self.sigma = sigma
        self.cov = np.eye(n)
        self.sigma_path = np.zeros(n)
        self.cov_path = np.zeros(n)
        self.generation = 0
        self._floor = floor
        population = population_of(n)
        parents = population // 2
        weights = math.log((population + 1) / 2) - np.log(np.arange(1, parents + 1))
        self._weights = weights / weights.sum()
        self._mu = 1.0 / float(np.sum(self._weights**2))
        self._set_rates(n, self._mu)

    def _set_rates(self, n: int, mu: float) -> None:
        """Set the learning rates of the tutorial's table 1."""
        self._c_sigma = (mu + 2) / (n + mu + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + self._c_sigma
        self._c_path = (4 + mu / n) / (n + 4 + 2 * mu / n)
        self._c_one = 2 / ((n + 1.3) ** 2 + mu)
        self._c_mu = min(1 - self._c_one, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        self._expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a point, shape (n,)."""
        root, _ = self._roots()
        step: np.ndarray = root @ rng.standard_normal(len(self.mean))
        return self.mean + self.sigma * step

    def learn(self, points: np.ndarray) -> None:
        """Move towards `points`, shape (points, n), the best one first."""
        n = len(self.mean)
        _, whiten = self._roots()
        steps = (points[: len(self._weights)] - self.mean) / self.sigma
        lengths = np.linalg.norm(steps @ whiten, axis=1)
        longest = math.sqrt(n) + 2 * n / (n + 2)
        steps *= np.minimum(1.0, longest / np.maximum(lengths, 1e-12))[:, None]
        mean_step = self._weights @ steps
        self.mean = self.mean + self.sigma * mean_step
        self.generation += 1
        self.sigma_path = _faded(self.sigma_path, whiten @ mean_step, self._c_sigma, self._mu)
        length = float(np.linalg.norm(self.sigma_path))
        settled = math.sqrt(1 - (1 - self._c_sigma) ** (2 * self.generation))
        # While the step size grows fast, the path would blow up the covariance as well.
        is_steady = length / settled < (1.4 + 2 / (n + 1)) * self._expected
        self.cov_path = _faded(self.cov_path, is_steady * mean_step, self._c_path, self._mu)
        lost = 0.0 if is_steady else self._c_path * (2 - self._c_path)
        self.cov = (
            (1 - self._c_one - self._c_mu + self._c_one * lost) * self.cov
            + self._c_one * np.outer(self.cov_path, self.cov_path)
            + self._c_mu * (steps.T * self._weights) @ steps
        )
        self.sigma *= math.exp(
            min(1.0, self._c_sigma / self._damping * (length / self._expected - 1))
        )
        self._widen()

    def _widen(self) -> None:
        """Raise what fell below the floor, keeping the correlations."""
        deviations = self.sigma * np.sqrt(np.diag(self.cov))
        factors = np.maximum(1.0, self._floor / deviations)
        self.cov = self.cov * np.outer(factors, factors)

    def _roots(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the symmetric root of the covariance and its inverse, shape (n, n) each."""
        values, vectors = np.linalg.eigh(self.cov)
        scales = np.sqrt(np.maximum(values, 1e-20))
        return (vectors * scales) @ vectors.T, (vectors / scales) @ vectors.T

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and arrays."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        for name in _STATE:
            setattr(self, name, state[name])


def _faded(path: np.ndarray, step: np.ndarray, rate: float, mu: float) -> np.ndarray:
    faded: np.ndarray = (1 - rate) * path + math.sqrt(rate * (2 - rate) * mu) * step
    return faded
