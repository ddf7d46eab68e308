"""CMA-ES: one normal distribution per trade-off between the goals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.space import Choice, Integer, Values

from ._cma import CMA, population_of
from ._proposer import Proposer

# Samples that round to a known policy are drawn again so many times.
_DRAWS = 50
# A whole number keeps this standard deviation, in levels, so that its neighbours stay in
# reach; a real one this share of its range.
_FLOOR = 0.3
_REAL_FLOOR = 1e-3
# Share of the plain weighted sum, which tells points of equal Tchebycheff distance apart.
_AUGMENTED = 0.05


class CMAES(Proposer):
    """Adapts one normal distribution per trade-off between the goals, each asked in turn.

    Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, on the augmented Tchebycheff
    distance from the ideal point, weighted as evenly as the number of directions allows. A
    distribution begins at the best of the design, and learns whenever a population of its
    own proposals has results, in whatever order they came; the results of others compete
    with them (Hansen, "Injecting external solutions into CMA-ES", 2011).

    Args:
        startup: Size of the initial design.
        directions: How many trade-offs are followed; of a single goal there is one.
        spread: Standard deviation to begin with, as a share of each parameter's range.

    Raises:
        PluginError: A parameter that is a choice between options, a startup below 2, no
            direction, or a spread outside (0, 1].
    """

    def __init__(
        self,
        problem: SearchProblem,
        *,
        seed: int = 0,
        startup: int = 10,
        directions: int = 4,
        spread: float = 0.4,
    ) -> None:
        choices = [each.name for each in problem.space.parameters if isinstance(each, Choice)]
        if choices:
            raise PluginError(
                f"cmaes needs numbers, but the space has choices: {', '.join(choices)}; "
                "use tpe or nsga2, which handle options, or fix them in the space"
            )
        for option, given, least in (("startup", startup, 2), ("directions", directions, 1)):
            if given < least:
                raise PluginError(f"{option} must be at least {least}, given: {given!r}")
        if not 0.0 < spread <= 1.0:
            raise PluginError(f"spread must be in (0, 1], given: {spread!r}")
        super().__init__(problem, design=startup, seed=seed)
        self._spread = spread
        goals = len(problem.goals)
        self._ideal = np.full(goals, np.inf)
        self._worst = np.full(goals, -np.inf)
        span = self._genome.high - self._genome.low
        self._free = span > 0.0
        self._span = span[self._free]
        whole = np.array([isinstance(each, Integer) for each in problem.space.parameters])
        self._floor = np.where(whole[self._free], _FLOOR / self._span, _REAL_FLOOR)
        self._directions = [
            _Direction(weights, len(self._span))
            for weights in _spread_weights(directions if goals > 1 else 1, goals)
        ]
        self._turn = 0
        self._under_way: dict[str, int] = {}

    def _propose(self) -> Policy | None:
        policy = self._next_designed()
        if policy is not None:
            return policy
        index = self._turn % len(self._directions)
        for _ in range(_DRAWS if self._free.any() else 0):
            policy = self._decode(self._sample(self._directions[index]))
            if self._known.add(policy):
                self._turn += 1
                self._under_way[self._known.key(policy)] = index
                return policy
        return self._known.draw(self._rng)

    def _sample(self, direction: _Direction) -> np.ndarray:
        if direction.cma is None:
            order = self._order(direction)
            # Without any result there is nothing better than the middle.
            begin = direction.points[order[0]] if len(order) else np.full(len(self._span), 0.5)
            direction.cma = CMA(begin, self._spread, self._floor)
        vector = self._genome.low.copy()
        vector[self._free] += direction.cma.sample(self._rng) * self._span
        return vector

    def _learn(self, values: Values, losses: np.ndarray | None, violation: float) -> None:
        owner = self._under_way.pop(self._known.key(self.problem.space.decode(values)), None)
        if violation == 0.0 and losses is not None:
            self._ideal = np.minimum(self._ideal, losses)
            self._worst = np.maximum(self._worst, losses)
        elif losses is None:
            losses = np.zeros(len(self._ideal))  # never read: it breaks a constraint
        offset = (self._genome.vector(values) - self._genome.low)[self._free]
        for index, direction in enumerate(self._directions):
            direction.add(offset / self._span, losses, violation)
            direction.own += index == owner
            if direction.cma is not None and direction.own >= direction.population:
                direction.cma.learn(direction.points[self._order(direction)])
                direction.clear()
            elif len(direction.points) > 3 * direction.population:
                direction.drop(int(self._order(direction)[-1]))

    def _order(self, direction: _Direction) -> np.ndarray:
        """Return the order of a direction's results: by violation, then by distance."""
        feasible = direction.violations == 0.0
        distances = np.zeros(len(feasible))
        if feasible.any():
            span = np.maximum(self._worst - self._ideal, 1e-12)
            scaled = direction.weights * (direction.losses[feasible] - self._ideal) / span
            distances[feasible] = scaled.max(axis=1) + _AUGMENTED * scaled.sum(axis=1)
        return np.lexsort((distances, direction.violations))

    def _forget(self, policy: Policy) -> None:
        self._under_way.pop(self._known.key(policy), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the distributions and their results, beside the generator and what is known."""
        return super().state_dict() | {
            "turn": self._turn,
            "under_way": dict(self._under_way),
            "bounds": np.stack([self._ideal, self._worst]),
            "directions": [each.state_dict() for each in self._directions],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        super().load_state_dict(state)
        self._turn = state["turn"]
        self._under_way = dict(state["under_way"])
        self._ideal, self._worst = state["bounds"]
        for direction, each in zip(self._directions, state["directions"], strict=True):
            direction.load_state_dict(each)
            direction.cma = None
            if each["cma"] is not None:
                direction.cma = CMA(each["cma"]["mean"], self._spread, self._floor)
                direction.cma.load_state_dict(each["cma"])


class _Direction:
    """A distribution, and the results since it last learned, n of them.

    `points` have shape (n, numbers) and are shares of the ranges; `losses` (n, goals);
    `violations` (n,); `own` counts those that the distribution proposed.
    """

    _COLUMNS = ("points", "losses", "violations")

    def __init__(self, weights: np.ndarray, numbers: int) -> None:
        self.weights = weights
        self.population = population_of(max(1, numbers))
        self.cma: CMA | None = None
        self.points = np.empty((0, numbers))
        self.losses = np.empty((0, len(weights)))
        self.violations = np.empty(0)
        self.own = 0

    def add(self, point: np.ndarray, losses: np.ndarray, violation: float) -> None:
        """Append a result."""
        self.points = np.vstack([self.points, point])
        self.losses = np.vstack([self.losses, losses])
        self.violations = np.append(self.violations, violation)

    def drop(self, index: int) -> None:
        """Remove a result."""
        for name in self._COLUMNS:
            setattr(self, name, np.delete(getattr(self, name), index, axis=0))

    def clear(self) -> None:
        """Remove all results."""
        for name in self._COLUMNS:
            setattr(self, name, getattr(self, name)[:0])
        self.own = 0

    def state_dict(self) -> dict[str, Any]:
        """Return numbers and arrays."""
        results = {name: getattr(self, name) for name in self._COLUMNS}
        cma = None if self.cma is None else self.cma.state_dict()
        return {**results, "own": self.own, "cma": cma}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the results."""
        for name in (*self._COLUMNS, "own"):
            setattr(self, name, state[name])


def _spread_weights(count: int, goals: int) -> np.ndarray:
    """Return weights that sum to one, shape (count, goals), evenly spread over the simplex."""
    middles = (np.arange(count) + 0.5)[:, None]
    # Even steps beside a Kronecker sequence: any number of points for any number of goals.
    # Powers of e/3 are far from any simple ratio.
    rates = np.append(1.0 / count, (np.e / 3.0) ** np.arange(1, goals - 1))[: goals - 1]
    cuts = np.sort(np.modf(middles * rates)[0], axis=1)
    edges = np.hstack([np.zeros((count, 1)), cuts, np.ones((count, 1))])
    weights: np.ndarray = np.diff(edges, axis=1)
    return weights
