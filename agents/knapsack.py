"""Knapsack: of all that fits into a budget of cost or measured latency, keep what counts most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError

from ._costs import CostName
from ._front import COSTS
from ._probes import Prober, Probes

# Parts of the largest budget; the true cost corrects the rounding.
_PARTS = 256
# Levels of every row whose cost is looked up.
_SAMPLED = 5
# How often costs are made additive anew around the last solution.
_ROUNDS = 2
# A rise is read as a damage, -log(1 - rise), so that damages of groups add up; beyond so
# much of a rise little is left to tell.
_RUINED = 0.95
# Damages count by their relative error, small ones by that of one this large.
_NOISE = 0.05
# How many trials the expectation that all groups are equally sensitive is worth.
_PRIOR = 0.3
# The same of all kinds of parameters, as a share of what the results weigh.
_KIND_PRIOR = 1e-3
# Growth of the number of results after which the weights are fitted again.
_GROWTH = 1.1


class Knapsack(Prober):
    """Fills every budget with the units of most saliency, by dynamic programming.

    HALP (Shen et al., "Structural pruning via latency-saliency knapsack", NeurIPS 2022):
    saliency is the sum of the scores of the units that leave; cost is that of the exact
    tables, or the latency measured of every group alone, by trials of their own. Beyond the
    paper, all told trials weigh the groups' saliencies (non-negative least squares), and
    every other proposal varies the weights.

    Args:
        target: Share of the dense network's cost; without it the whole range is covered.
        cost: What the budget is of. By default the first of them that is a goal, else macs.
        levels: At how many levels each group's latency is measured; for latency_ms only.

    Raises:
        PluginError: An option out of bounds, `latency_ms` that is no goal, no goal beside
            costs, or no ordered parameter.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        target: float | None = None,
        cost: CostName | Literal["latency_ms"] | None = None,
        levels: int = 2,
    ) -> None:
        goals = [goal.name for goal in problem.goals]
        cost = cost or next((name for name in COSTS if name in goals), "macs")
        if cost not in COSTS:
            raise PluginError(f"cost must be one of {', '.join(COSTS)}; given: {cost!r}")
        if levels < 1:
            raise PluginError(f"levels must be at least 1, given: {levels!r}")
        if cost == "latency_ms" and cost not in goals:
            raise PluginError(
                "cost is latency_ms, which no trial measures; add it to the objectives, or "
                "choose macs, params or size_bytes"
            )
        is_timed = cost == "latency_ms"
        super().__init__(
            problem, seed=seed, target=target, cost=None if cost == "latency_ms" else cost
        )
        rows = len(self._levels.columns)
        self._weights = np.ones(rows)
        self._moments = np.zeros((rows, rows))
        self._products = np.zeros(rows)
        self._told = 0
        self._fitted = 0
        self._timing = goals.index(cost) if is_timed else None
        self._probes = Probes(self._levels, levels if is_timed else 0)
        self._latencies = self._probes.curves(1.0)
        # Of latency saved: sums of predicted · measured and of predicted².
        self._saved = np.zeros(2)
        if not is_timed:
            self._check_reach()

    def _at(self, budget: float, attempt: int) -> np.ndarray:
        weights = self._weights
        if attempt or self._rng.random() < 0.5:
            weights = weights * self._rng.lognormal(sigma=max(1, attempt), size=len(weights))
        damage = weights[:, None] * self._levels.gone
        member = self._member_near(budget)
        if member is None:
            ways = np.rint(np.linspace(0.0, 1.0, 65)[:, None] * self._levels.top).astype(np.int64)
            picks = ways[np.abs(self._share(ways) - budget).argmin()]
        else:
            picks = self._levels.picks(member)
        for _ in range(_ROUNDS):
            picks = self._packed(damage, picks, budget)
        vector: np.ndarray = self._levels.vectors(picks[None])[0]
        return vector

    def _packed(self, damage: np.ndarray, around: np.ndarray, budget: float) -> np.ndarray:
        """Return the level indices of least damage whose true cost fits into a budget.

        Costs are made additive around the level indices `around`.
        """
        rows, width = damage.shape
        costs = self._single_costs(around, width)
        part = max(float(costs.max(axis=1).sum()) / _PARTS, 1e-12)
        weights = np.maximum(0, np.rint(costs / part)).astype(np.int64)
        choices = pack(damage, weights, int(weights.max(axis=1).sum()))
        picks = np.zeros(rows, dtype=np.int64)
        low, high = 0, choices.shape[1] - 1
        while low <= high:
            middle = (low + high) // 2
            found = np.minimum(unpack(choices, weights, middle), self._levels.top)
            if self._share(found[None])[0] <= budget:
                picks, low = found, middle + 1
            else:
                high = middle - 1
        return picks

    def _single_costs(self, around: np.ndarray, width: int) -> np.ndarray:
        """Return what every level costs beyond the lowest while other rows stay as in `around`.

        A cost is linear in the units of most single groups, so a few levels tell the rest.
        """
        rows = np.arange(len(around))
        levels = np.rint(np.linspace(0.0, 1.0, _SAMPLED) * self._levels.top[:, None])
        changed = np.tile(around, (len(rows), _SAMPLED, 1))
        changed[rows, :, rows] = levels
        costs = self._share(changed.reshape(-1, len(rows))).reshape(levels.shape)
        every = np.arange(width)
        lines = [np.interp(every, *each) for each in zip(levels, costs, strict=True)]
        return np.array(lines) - costs[:, :1]

    def _fit(self) -> None:
        """Weigh the groups by all results so far."""
        self._fitted = self._told
        rows = len(self._weights)
        mean = self._expected()
        prior = max(_PRIOR * float(self._moments.trace()) / rows / self._told, 1e-9)
        root = np.linalg.cholesky(self._moments + prior * np.eye(rows))
        right = np.linalg.solve(root, self._products + prior * mean)
        weights, _ = nnls(root.T, right, maxiter=100 * rows)
        # A group that seems to count nothing would be emptied for the least gain.
        self._weights = np.maximum(weights, 1e-3 * mean)

    def _expected(self) -> np.ndarray:
        """Return the weights, shape (rows,), if all groups of a kind were equally sensitive."""
        total = float(self._moments.sum())
        overall = max(1e-6, float(self._products.sum()) / total) if total > 0.0 else 1.0
        kinds, place = np.unique(self._levels.kinds, return_inverse=True)
        if len(kinds) == 1:
            return np.full(len(place), overall)
        members = (place == np.arange(len(kinds))[:, None]).astype(np.float64)
        moments = members @ self._moments @ members.T
        # Kinds of which nothing is known yet are as sensitive as all together.
        ridge = max(_KIND_PRIOR * float(moments.trace()), 1e-12)
        root = np.linalg.cholesky(moments + ridge * np.eye(len(kinds)))
        right = np.linalg.solve(root, members @ self._products + ridge * overall)
        found, _ = nnls(root.T, right)
        return np.asarray(np.maximum(found, 1e-3 * overall)[place])

    def _study(self, vector: np.ndarray, cost: float, rise: float) -> None:
        picks = self._levels.picks(vector)
        gone = self._levels.gone[np.arange(len(picks)), picks]
        damage = -np.log(1.0 - np.clip(rise, 0.0, _RUINED))
        credit = (damage + _NOISE) ** -2.0
        self._moments = self._moments + credit * np.outer(gone, gone)
        self._products = self._products + credit * damage * gone
        self._told += 1
        if self._told > _GROWTH * self._fitted:
            self._fit()
        if self._timing is None:
            return
        if self._probes.learn(vector, 1.0 - cost):
            self._latencies = self._probes.curves(1.0)
        else:
            predicted = float(self._predicted(picks[None])[0])
            self._saved = self._saved + predicted * np.array([1.0 - cost, predicted])

    def _predicted(self, picks: np.ndarray) -> np.ndarray:
        """Return the shares of latency saved, shape (n,), if those of single rows added up."""
        saved: np.ndarray = self._latencies[np.arange(picks.shape[1]), picks].sum(axis=1)
        return saved

    def _share(self, picks: np.ndarray, base: np.ndarray | None = None) -> np.ndarray:
        if self._timing is None:
            return super()._share(picks, base)
        factor = self._saved[0] / self._saved[1] if self._saved[0] > 0.0 else 1.0
        return np.maximum(0.0, 1.0 - factor * self._predicted(picks))

    def _cost(self, vector: np.ndarray, losses: np.ndarray | None) -> float:
        if self._timing is None:
            return super()._cost(vector, losses)
        dense = self.problem.dense
        if losses is None or dense is None:
            return float(self._share(self._levels.picks(vector)[None])[0])
        return float(losses[self._timing]) / dense.value("latency_ms")

    def state_dict(self) -> dict[str, Any]:
        """Return the fit and the latency saved as well."""
        return super().state_dict() | {
            "weights": self._weights,
            "moments": self._moments,
            "products": self._products,
            "told": self._told,
            "fitted": self._fitted,
            "saved": self._saved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._weights = np.asarray(state["weights"], dtype=np.float64)
        self._moments = np.asarray(state["moments"], dtype=np.float64)
        self._products = np.asarray(state["products"], dtype=np.float64)
        self._told = int(state["told"])
        self._fitted = int(state["fitted"])
        self._latencies = self._probes.curves(1.0)
        self._saved = np.asarray(state["saved"], dtype=np.float64)


def pack(damage: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    """Return which level each row takes at every budget up to `most`, shape (rows, most + 1).

    `damage` and whole `weights` have shape (rows, levels), and the first weight of every row
    is 0. Column b holds the choice of a row when it and those before it may weigh b.
    """
    budgets = np.arange(most + 1)
    least = np.zeros(most + 1)
    choices = np.empty((len(damage), most + 1), dtype=np.int64)
    for row, (lost, weight) in enumerate(zip(damage, weights, strict=True)):
        left = budgets - weight[:, None]
        totals = np.where(left >= 0, least[np.maximum(left, 0)] + lost[:, None], np.inf)
        choices[row] = totals.argmin(axis=0)
        least = totals[choices[row], budgets]
    return choices


def unpack(choices: np.ndarray, weights: np.ndarray, budget: int) -> np.ndarray:
    """Return the level of every row, shape (rows,), in the best packing within a budget."""
    picks = np.zeros(len(choices), dtype=np.int64)
    for row in reversed(range(len(choices))):
        picks[row] = choices[row, budget]
        budget -= int(weights[row, picks[row]])
    return picks
