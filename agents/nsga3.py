"""NSGA-III: rank by dominance, spread along reference directions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.algorithms.moo.sms import cv_and_dom_tournament
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival

from autoprune.contracts.searcher import SearchProblem

from ._pymoo import SteadyState, directions, scaled


class NSGA3(SteadyState):
    """Evolves a population towards the front, spread along reference directions.

    Deb and Jain, "An evolutionary many-objective optimization algorithm using
    reference-point-based nondominated sorting approach, part I", IEEE TEC 2014, in a steady
    state. Made for three goals and more.

    Args:
        population: Size of the initial design and of the population that survives; the
            largest even set of directions that fits in is taken.
        crossover: Probability that a child mixes its parents' ordered parameters.
        mutation: Probability that a parameter mutates; one per child by default.
        switch: Share of children made by a level switch, which keeps the macs; of use, if at
            all, where these are limited.

    Raises:
        PluginError: A single goal, a population below 4 or the number of goals, or a rate
            outside [0, 1].
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        population: int = 20,
        crossover: float = 0.9,
        mutation: float | None = None,
        switch: float = 0.0,
    ) -> None:
        super().__init__(
            problem,
            seed=seed,
            population=population,
            crossover=crossover,
            mutation=mutation,
            switch=switch,
            survival=_Niches(directions(len(problem.goals), population)),
            compare=cv_and_dom_tournament,
        )


class _Niches(Survival):
    """pymoo's survival, begun anew at every call.

    It would remember the ends of fronts long gone, and takes losses below 1e-3 for zero.
    """

    def __init__(self, rays: np.ndarray) -> None:
        super().__init__(filter_infeasible=True)
        self._rays = rays

    def _do(
        self, problem: Problem, pop: Population, *_: Any, n_survive: int, **options: Any
    ) -> Population:
        losses = scaled(pop.get("F"))
        stand_ins = Population.new(F=losses, place=np.arange(len(pop)))
        with warnings.catch_warnings():  # pymoo silences all of them, for good
            kept = ReferenceDirectionSurvival(self._rays).do(
                problem, stand_ins, n_survive=n_survive, **options
            )
        return pop[kept.get("place")]
