"""Bayesian linear regression with errors in proportion to the value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class RelativeRegression:
    """Learns `value ≈ row · w` from pairs, one at a time, and says how sure it is.

    A conjugate prior (Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.3;
    Gelman et al., "Bayesian Data Analysis", 3rd ed., section 14.2): `means` and `deviations`
    of w, shape (n,), and a relative error `noise` that weighs as much as `trials` pairs.
    Dividing rows and values by the value makes relative errors out of absolute ones.
    """

    def __init__(
        self, means: Sequence[float], deviations: Sequence[float], noise: float, trials: float
    ) -> None:
        self._precision = np.diag((noise / np.array(deviations)) ** 2)
        self._moment = self._precision @ np.array(means)
        self._squares = float(np.array(means) @ self._moment) + trials * noise**2
        self._trials = trials

    def take(self, row: np.ndarray, value: float) -> None:
        """Learn from a pair of a row (n,) and a value > 0."""
        relative = row / value
        self._precision = self._precision + np.outer(relative, relative)
        self._moment = self._moment + relative
        self._squares += 1.0
        self._trials += 1.0

    def predict(self, row: np.ndarray) -> tuple[float, float]:
        """Return the value to expect of a row (n,), and half its 95 % predictive interval."""
        solved = np.linalg.solve(self._precision, np.stack([self._moment, row], axis=1))
        weights, spread = solved.T
        value = float(row @ weights)
        variance = (self._squares - self._moment @ weights) / self._trials
        half = student(self._trials) * math.sqrt(variance * (value**2 + row @ spread))
        return value, half


def student(freedom: float) -> float:
    """Return Student's two-sided 95 % quantile, within 2 % from 4 degrees of freedom on.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.5.
    """
    z = 1.959964
    first, second = z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z
    return z + first / (4 * freedom) + second / (96 * freedom**2)
