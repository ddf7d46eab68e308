"""NSGA-III: rank by dominance, spread along reference directions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.survival import Survival

from ._pymoo import SteadyState, directions, scaled


class NSGA3(SteadyState):
    """Evolves a population towards the front, spread along reference directions.

    Deb and Jain, "An evolutionary many-objective optimization algorithm using
    reference-point-based nondominated sorting approach, part I", IEEE TEC 2014, in a steady
    state. Made for three goals and more.
    """

    def _surviving(self, goals: int, population: int) -> Survival:
        return _Niches(directions(goals, population))


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
