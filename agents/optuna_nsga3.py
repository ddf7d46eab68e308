"""Optuna's NSGA-III: the elite is spread along reference directions."""

from __future__ import annotations

import math
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIIISampler

from autoprune.contracts.searcher import SearchProblem

from ._optuna import Elite, Genetic


class OptunaNSGA3(Genetic):
    """Breeds with the operators of Optuna's NSGA-III, without its generations.

    Deb and Jain, "An evolutionary many-objective optimization algorithm using
    reference-point-based nondominated sorting approach", IEEE TEC 2014. Parents are the
    elite of all results, spread along as many reference directions as the population can
    fill, so that no worker waits for another.

    Args:
        population: Size of the initial design and of the elite.
        crossover: Probability that a child mixes its parents' parameters.
        mutation: Probability that a parameter mutates; one per child by default.

    Raises:
        PluginError: A population below 4, or a rate outside [0, 1].
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        population: int = 40,
        crossover: float = 0.9,
        mutation: float | None = None,
    ) -> None:
        super().__init__(
            problem, seed=seed, population=population, crossover=crossover, mutation=mutation
        )
        self._options["dividing_parameter"] = _divisions(len(problem.goals), population)

    def _sampler(self, seed: int) -> NSGAIIISampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return _Sampler(seed=seed, **self._options)


class _Sampler(Elite, NSGAIIISampler):
    """NSGA-III that selects from all results."""


def _divisions(goals: int, population: int) -> int:
    """Return the finest division of every goal that has no more directions than members."""
    divisions = 1
    while goals > 1 and math.comb(divisions + goals, goals - 1) <= population:
        divisions += 1
    return divisions
