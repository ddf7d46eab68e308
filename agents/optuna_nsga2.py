"""Optuna's NSGA-II: uniform crossover among the best of all results."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler

from autoprune.contracts.searcher import SearchProblem

from ._optuna import Elite, Genetic


class OptunaNSGA2(Genetic):
    """Breeds with the operators of Optuna's NSGA-II, without its generations.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC
    2002. Parents are the elite of all results by rank and crowding, so that no worker waits
    for another.

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

    def _sampler(self, seed: int) -> NSGAIISampler:
        return _Sampler(seed=seed, **self._options)


class _Sampler(Elite, NSGAIISampler):
    """NSGA-II that selects from all results."""
