"""Bisection: measure every group alone, then find one threshold for every budget."""

from __future__ import annotations

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError

from ._probes import Prober, Probes

# Damage grows about with the square of the share of units lost.
_POWER = 2.0
# Added to the loss of a whole group, so that groups whose loss drowns in noise are taken
# from evenly.
_NOISE = 0.003
# Budgets that get one common threshold before those of single groups are varied.
_COMMON = 48
# Spread of the factors on a varied threshold, and on a common one where there are several kinds
# of rows, of which few are probed: of those that are alike only so many give in as a budget
# needs. With one kind it changes nothing that can be told from chance.
_SPREAD, _TIES = 0.4, 1e-3


class Bisection(Prober):
    """Keeps of every group the fewest units whose own loss stays below one threshold.

    FastNAS of NVIDIA's Model Optimizer. Every group is measured at a few levels, all others
    whole; a threshold on the monotone loss curves is then bisected until the exact cost
    meets the budget, so that after the probes any budget is free. Later the thresholds of
    single groups are varied around those of the front's members, whoever proposed them.

    Args:
        target: Share of the dense network's cost; without it the whole range is covered.
        levels: At how many levels each group is measured. The lowest ones come first, the
            others take turns with policies that use what is known.

    Raises:
        PluginError: An option out of bounds, no goal beside costs, or no ordered parameter.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        target: float | None = None,
        levels: int = 2,
    ) -> None:
        if levels < 1:
            raise PluginError(f"levels must be at least 1, given: {levels!r}")
        super().__init__(problem, seed=seed, target=target)
        self._check_reach()
        self._probes = Probes(self._levels, levels)

    def _at(self, budget: float, attempt: int) -> np.ndarray:
        curves = self._probes.curves(_POWER) + _NOISE * self._levels.lost**_POWER
        prices = np.log(np.maximum(curves[:, :-1], np.finfo(np.float64).tiny))
        base, spread = None, _TIES if np.ptp(self._levels.kinds) else 0.0
        if attempt or self._budgets > _COMMON:
            base = self._member_near(budget)
            if base is not None:
                prices = prices - self._thresholds(prices, base)[:, None]
            spread = _SPREAD * max(1, attempt)
        if spread:
            prices = prices + spread * self._rng.normal(size=(len(prices), 1))
        picks = self._levels.within(prices, budget, lambda picks: self._share(picks, base))
        vector: np.ndarray = self._levels.vectors(picks[None], base)[0]
        return vector

    def _thresholds(self, prices: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Return thresholds, shape (rows,), at which every row is at its level in a vector."""
        rows, picks = np.arange(len(prices)), self._levels.picks(vector)
        paid = prices[rows, np.maximum(picks - 1, 0)]
        refused = prices[rows, np.maximum(np.minimum(picks, self._levels.top - 1), 0)]
        middle: np.ndarray = (paid + refused) / 2.0
        return middle

    def _study(self, vector: np.ndarray, cost: float, rise: float) -> None:
        self._probes.learn(vector, rise)
