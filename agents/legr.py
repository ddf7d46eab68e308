"""LeGR: learn one global ranking of all units, which any budget cuts off where it likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy

from ._front import FrontFollower

# Children that rank by the scores as they are, and at random, before evolution begins.
_PLAIN = 4
_RANDOM = 12
# Steps of a logarithm of a scale, and of a shift in multiples of a group's mean score.
_STEP = (0.7, 0.1)
_RECENT = 256


class LeGR(FrontFollower):
    """Evolves a scale and a shift of the scores per group; one threshold meets any budget.

    Chin et al., "Towards efficient model compression via learned global ranking", CVPR
    2020, with regularised evolution (Real et al., AAAI 2019). Every child is tried at a
    budget of its own; its fitness is the loss beyond what the recent trials of all searchers
    lead to expect at that cost. Policies of others enter as the shifts that give them.

    Args:
        target: Share of the dense network's cost; without it the whole range is covered.
        population: How many of the latest children are kept.
        sample: How many of them compete to be a parent.
        mutation: Probability that a child changes the scale and the shift of a group.

    Raises:
        PluginError: An option out of bounds, no goal beside costs, or no ordered parameter.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        target: float | None = None,
        population: int = 64,
        sample: int = 16,
        mutation: float = 0.2,
    ) -> None:
        if population < 2:
            raise PluginError(f"population must be at least 2, given: {population!r}")
        if not 1 <= sample <= population:
            raise PluginError(
                f"sample must be in [1, population = {population}], given: {sample!r}"
            )
        if not 0.0 <= mutation <= 1.0:
            raise PluginError(f"mutation must be a probability in [0, 1], given: {mutation!r}")
        super().__init__(problem, seed=seed, target=target)
        self._check_reach()
        self._size = population
        self._sample = sample
        self._mutation = mutation
        self._rows = len(self._levels.columns)
        self._steps = np.repeat(_STEP, self._rows)
        self._born = 0
        self._genes = np.zeros(2 * self._rows)
        self._vector = self._genome.low
        self._under_way: dict[str, list[float]] = {}
        # One row per member: cost, rise, logarithms of the scales, shifts.
        self._members = np.empty((0, 2 + 2 * self._rows))
        self._trials = np.empty((0, 2))

    def _propose(self) -> Policy | None:
        before = self._born
        policy = super()._propose()
        if policy is None:
            self._born = before
        # One that was drawn by chance has no genes yet.
        elif policy == self._decode(self._vector):
            self._under_way[self._known.key(policy)] = self._genes.tolist()
        return policy

    def _at(self, budget: float, attempt: int) -> np.ndarray:
        self._genes = self._child()
        picks = self._levels.within(self._prices(self._genes), budget, self._share)
        self._vector = self._levels.vectors(picks[None])[0]
        return self._vector

    def _prices(self, genes: np.ndarray) -> np.ndarray:
        """Return the transformed score of the least unit that every level keeps."""
        scales, shifts = np.exp(genes[: self._rows]), genes[self._rows :]
        prices: np.ndarray = scales[:, None] * self._levels.edge[:, 1:] + shifts[:, None]
        return prices

    def _child(self) -> np.ndarray:
        """Return genes, shape (2 · rows,), of the next child."""
        self._born += 1
        if self._born <= _PLAIN:
            return np.zeros(2 * self._rows)
        steps = self._steps * self._rng.normal(size=2 * self._rows)
        if self._born <= _PLAIN + _RANDOM or not len(self._members):
            return steps
        count = len(self._members)
        rivals = self._rng.choice(count, min(self._sample, count), replace=False)
        parent = self._members[rivals[self._excess()[rivals].argmin()], 2:]
        changes = self._rng.random(self._rows) < self._mutation
        changes[self._rng.integers(self._rows)] = True
        child: np.ndarray = parent + np.tile(changes, 2) * steps
        return child

    def _excess(self) -> np.ndarray:
        """Return by how much every member's rise exceeds what its cost leads to expect."""
        costs, rises = self._trials[self._trials[:, 0].argsort(kind="stable")].T
        expected = isotonic_regression(rises, increasing=False).x
        excess: np.ndarray = self._members[:, 1] - np.interp(self._members[:, 0], costs, expected)
        return excess

    def _study(self, vector: np.ndarray, cost: float, rise: float) -> None:
        self._trials = np.vstack([self._trials, [[cost, rise]]])[-_RECENT:]
        key = self._known.key(self._decode(vector))
        genes = self._under_way.pop(key, None)
        member = [cost, rise, *(self._genes_of(vector) if genes is None else genes)]
        self._members = np.vstack([self._members, member])[-self._size :]

    def _genes_of(self, vector: np.ndarray) -> np.ndarray:
        """Return shifts with which a threshold of zero gives the levels of a vector."""
        rows, picks = np.arange(self._rows), self._levels.picks(vector)
        above = np.minimum(picks + 1, self._levels.top)
        shifts = -(self._levels.edge[rows, picks] + self._levels.edge[rows, above]) / 2.0
        return np.concatenate([np.zeros(self._rows), shifts])

    def _forget(self, policy: Policy) -> None:
        self._under_way.pop(self._known.key(policy), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the population, the genes under way and the recent trials as well."""
        return super().state_dict() | {
            "born": self._born,
            "under_way": dict(self._under_way),
            "members": self._members,
            "trials": self._trials,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._born = int(state["born"])
        self._under_way = dict(state["under_way"])
        self._members = np.asarray(state["members"], dtype=np.float64)
        self._trials = np.asarray(state["trials"], dtype=np.float64)
