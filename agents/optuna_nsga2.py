"""Optuna's NSGA-II: uniform crossover among the best of all results."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler

from ._optuna import Elite, Genetic


class OptunaNSGA2(Genetic):
    """Breeds with the operators of Optuna's NSGA-II, without its generations.

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC
    2002. Parents are the elite of all results by rank and crowding, so that no worker waits
    for another.
    """

    def _sampler(self, seed: int) -> NSGAIISampler:
        return _Sampler(seed=seed, **self._options)


class _Sampler(Elite, NSGAIISampler):
    """NSGA-II that selects from all results."""
