"""Optuna's NSGA-III: the elite is spread along reference directions."""

from __future__ import annotations

import math
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIIISampler

from ._optuna import Elite, Genetic


class OptunaNSGA3(Genetic):
    """Breeds with the operators of Optuna's NSGA-III, without its generations.

    Deb and Jain, "An evolutionary many-objective optimization algorithm using
    reference-point-based nondominated sorting approach", IEEE TEC 2014. Parents are the
    elite of all results, spread along as many reference directions as the population can
    fill, so that no worker waits for another.
    """

    def _sampler(self, seed: int) -> NSGAIIISampler:
        divisions = _divisions(self._goals, self._options["population_size"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return _Sampler(seed=seed, dividing_parameter=divisions, **self._options)


class _Sampler(Elite, NSGAIIISampler):
    """NSGA-III that selects from all results."""


def _divisions(goals: int, population: int) -> int:
    """Return the finest division of every goal that has no more directions than members."""
    divisions = 1
    while goals > 1 and math.comb(divisions + goals, goals - 1) <= population:
        divisions += 1
    return divisions
