"""Searchers that follow what quality is lost at which cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.space import Values

from ._budgets import Budgeted
from ._costs import CostName
from ._levels import Levels

COSTS: tuple[CostName | Literal["latency_ms"], ...] = (*get_args(CostName), "latency_ms")


class FrontFollower(Budgeted):
    """Spreads budgets along the front of cost and quality, so that steep parts get more.

    Quality is the first goal that is no cost. Losses are read as rises: 0.0 for the dense
    network, 1.0 at the worst value of interest. A family overrides `_study`.
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        target: float | None,
        cost: CostName | None = None,
    ) -> None:
        names = [goal.name for goal in problem.goals]
        qualities = [index for index, name in enumerate(names) if name not in COSTS]
        if not qualities:
            raise PluginError(
                f"all goals are costs: {', '.join(names)}; add an objective that says what "
                "quality is lost, such as error"
            )
        super().__init__(problem, seed=seed, target=target, cost=cost)
        if not self._genome.ordered.any():
            raise PluginError(
                "the space has only unordered choices, so no network can be scaled to a cost; "
                "search it with nsga2"
            )
        self._quality = qualities[0]
        self._zero, self._unit = _scale(problem, self._quality)
        self._levels = Levels(problem, self._genome)
        # One row per member: cost, rise, vector; ascending in cost.
        self._front = np.empty((0, 2 + len(self._genome.low)))

    @abstractmethod
    def _study(self, vector: np.ndarray, cost: float, rise: float) -> None:
        """Learn from a measured result."""

    def _share(self, picks: np.ndarray, base: np.ndarray | None = None) -> np.ndarray:
        """Return the cost of level indices (n, rows), with the options of the vector `base`."""
        return self._costs.share(self._levels.vectors(picks, base))

    def _range(self) -> tuple[float, float]:
        low, high = self._share(np.stack([np.zeros_like(self._levels.top), self._levels.top]))
        return float(low), float(high)

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        super()._learn(values, losses, violation)
        if losses is None:
            self._forget(self.problem.space.decode(values))
            return
        vector = self._genome.vector(values)
        cost = self._cost(vector, losses)
        rise = float((losses[self._quality] - self._zero) / self._unit)
        if violation <= 0.0:
            self._enter(np.concatenate([[cost, rise], vector]))
        self._study(vector, cost, rise)

    def _enter(self, member: np.ndarray) -> None:
        """Let a result into the front unless another is as good."""
        as_good = (self._front[:, :2] <= member[:2]).all(axis=1)
        if as_good.any():
            return
        beaten = (self._front[:, :2] >= member[:2]).all(axis=1)
        members = np.vstack([self._front[~beaten], member])
        self._front = members[members[:, 0].argsort(kind="stable")]

    def _spread(self, position: float) -> float:
        low, high = self._range()
        costs = np.clip([low, *self._front[:, 0], high], low, high)
        rises = np.clip([*self._front[:1, 1], *self._front[:, 1], 0.0], 0.0, 1.0)
        rises = np.pad(rises, (len(costs) - len(rises), 0))
        steps = np.diff(costs) / max(high - low, 1e-12) + np.maximum(-np.diff(rises), 0.0)
        places = np.concatenate([[0.0], steps.cumsum()])
        return float(np.interp(position * places[-1], places, costs))

    def _member_near(self, budget: float) -> np.ndarray | None:
        """Return the vector of the front's member nearest to a cost; None while it is empty."""
        if not len(self._front):
            return None
        vector: np.ndarray = self._front[np.abs(self._front[:, 0] - budget).argmin(), 2:]
        return vector

    def state_dict(self) -> dict[str, Any]:
        """Return the front as well."""
        return super().state_dict() | {"front": self._front}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._front = np.asarray(state["front"], dtype=np.float64)


def _scale(problem: SearchProblem, index: int) -> tuple[float, float]:
    """Return the dense network's loss in a goal, and from there to the worst of interest."""
    goal = problem.goals[index]
    dense = 0.0 if problem.dense is None else goal.loss(problem.dense.value(goal.name))
    worst = dense if goal.reference is None else goal.loss(goal.reference)
    return dense, worst - dense if worst > dense else 1.0
