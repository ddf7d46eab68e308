"""SMS-EMOA: whoever adds least to the hypervolume goes."""

from __future__ import annotations

from pymoo.algorithms.moo.sms import LeastHypervolumeContributionSurvival, cv_and_dom_tournament

from autoprune.contracts.searcher import SearchProblem

from ._pymoo import SteadyState


class SMSEMOA(SteadyState):
    """Evolves a population whose hypervolume grows: whoever adds least to it goes.

    Beume, Naujoks and Emmerich, "SMS-EMOA: multiobjective selection based on dominated
    hypervolume", EJOR 2007, which is a steady state from the start.

    Args:
        population: Size of the initial design and of the population that survives.
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
            survival=LeastHypervolumeContributionSurvival(),
            compare=cv_and_dom_tournament,
        )
