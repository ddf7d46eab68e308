"""What searchers share that propose one policy for one cost after another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Values

from ._costs import CostModel, CostName
from ._proposer import Proposer

# Multiples of the golden ratio, modulo 1: each falls into one of the largest gaps left by
# those before it.
_GOLDEN = (5.0**0.5 - 1.0) / 2.0
# Vectors tried per budget, and budgets tried, before nothing new is thought to be left.
_ATTEMPTS = 6
_BUDGETS = 4
# Budgets in a row that may be passed over because their neighbours broke a constraint.
_PASSED = 16
_RECENT = 256


class Budgeted(Proposer):
    """Spreads its proposals over the reachable costs, or keeps to one of them.

    A family overrides `_at`. Budgets are shares of the dense network's cost. Those whose
    nearest recent result broke a constraint are passed over. A search of the whole range
    ends with random policies; one with a target ends when it finds nothing new for it.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        target: float | None,
        cost: CostName | None = None,
    ) -> None:
        if target is not None and not 0.0 < target <= 1.0:
            raise PluginError(
                "target must be a share of the dense network's cost in (0, 1], or null for the "
                f"whole range; given: {target!r}"
            )
        super().__init__(problem, seed=seed)
        self._target = target
        self._costs = CostModel(problem, cost)
        self._budgets = 0
        # One row per recent result: its cost, and whether every constraint held.
        self._recent = np.empty((0, 2))

    @abstractmethod
    def _at(self, budget: float, attempt: int) -> np.ndarray | None:
        """Return a vector for a budget, at another attempt another; None where none is found."""

    def _check_reach(self) -> None:
        """Raise `PluginError` where no network of the space is as small as the target."""
        lowest = self._range()[0]
        if self._target is not None and self._target < lowest:
            raise PluginError(
                f"target {self._target!r} is out of reach: the smallest network of the space has "
                f"{lowest:.4f} of the dense network's {self._costs.name}; raise the target or "
                "widen the space"
            )

    def _propose(self) -> Policy | None:
        before = self._budgets
        for _ in range(_BUDGETS):
            budget = self._next_budget()
            for attempt in range(_ATTEMPTS):
                vector = self._at(budget, attempt)
                policy = None if vector is None else self._decode(vector)
                if policy is not None and self._known.add(policy):
                    return policy
        policy = self._known.draw(self._rng) if self._target is None else None
        if policy is None:
            self._budgets = before  # an empty answer leaves no trace
        return policy

    def _next_budget(self) -> float:
        for _ in range(_PASSED):
            self._budgets += 1
            budget = self._target or self._spread((self._budgets * _GOLDEN) % 1.0)
            if self._is_promising(budget):
                break
        return budget

    def _spread(self, position: float) -> float:
        """Return the budget at a position in [0, 1) of the whole range."""
        low, high = self._range()
        return low + position * (high - low)

    def _range(self) -> tuple[float, float]:
        """Return the lowest and the highest cost of the space."""
        ends = np.stack([self._genome.diagonal(0.0), self._genome.diagonal(1.0)])
        low, high = self._costs.share(ends).tolist()
        return low, high

    def _is_promising(self, budget: float) -> bool:
        if not len(self._recent):
            return True
        nearest = np.abs(self._recent[:, 0] - budget).argmin()
        return bool(self._recent[nearest, 1])

    def _cost(self, vector: np.ndarray, losses: np.ndarray | None) -> float:
        """Return the cost of a result over the dense network's."""
        return float(self._costs.share(vector[None])[0])

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        cost = self._cost(self._genome.vector(values), losses)
        self._recent = np.vstack([self._recent, [[cost, violation <= 0.0]]])[-_RECENT:]

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the sequence of budgets and the recent results as well."""
        return super().state_dict() | {"budgets": self._budgets, "recent": self._recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._budgets = int(state["budgets"])
        self._recent = np.asarray(state["recent"], dtype=np.float64)
