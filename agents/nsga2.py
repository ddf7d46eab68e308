"""NSGA-II: rank by dominance, break ties by crowding."""

from __future__ import annotations

from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from autoprune.contracts.searcher import SearchProblem

from ._pymoo import SteadyState


class NSGA2(SteadyState):
    """Evolves a population towards the front, spread by crowding distance.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC
    2002, in its steady state: every trial, whoever asked for it, competes at once.

    Args:
        population: Size of the initial design and of the population that survives.
        crossover: Probability that a child mixes its parents' ordered parameters.
        mutation: Probability that a parameter mutates; one per child by default.
        switch: Share of children made by a level switch, which keeps the macs; of use, if at
            all, where these are limited.

    Raises:
        PluginError: A population below 4 or the number of goals, or a rate outside [0, 1].
    """

    least_goals = 1

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
            survival=RankAndCrowding(),
            compare=binary_tournament,
        )
