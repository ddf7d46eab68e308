"""NSGA-II: rank by dominance, break ties by crowding."""

from __future__ import annotations

from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.survival import Survival
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from ._pymoo import SteadyState


class NSGA2(SteadyState):
    """Evolves a population towards the front, spread by crowding distance.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC
    2002, in its steady state: every trial, whoever asked for it, competes at once.
    """

    least_goals = 1
    tournament = staticmethod(binary_tournament)

    def _surviving(self, goals: int, population: int) -> Survival:
        return RankAndCrowding()
