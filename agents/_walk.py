"""The walk over the parameters of a space, one action each, within a budget of cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.space import Choice, Float

from ._costs import CostModel
from ._genome import Genome

# A real-valued parameter has so many levels in the walk.
_FINE = 33
# Sums of floats that are equal on paper differ by less than this share of the dense cost.
_SLACK = 1e-9


@dataclass(frozen=True)
class Paths:
    """Walks that were taken, n of them.

    `actions` are the executed ones in (0, 1), shape (n, steps), `progress` is what changed
    along the way, shape (n, steps, features), and `vectors` are the points of the genome
    that the walks lead to, shape (n, parameters).
    """

    actions: np.ndarray
    progress: np.ndarray
    vectors: np.ndarray


class Walk:
    """Decides on the parameters of a space in order, each by an action in [0, 1].

    Parameters with a single value are passed over. The levels of the others are sorted by
    cost; each has an equal part of the range of actions, the cheapest level the lowest.
    `range` are the costs with all parameters at their lowest and at their highest.
    """

    # Features of a state that change along the walk.
    changing = 5

    def __init__(self, problem: SearchProblem, genome: Genome, costs: CostModel) -> None:
        self._costs = costs
        self._columns = np.flatnonzero(genome.high > genome.low)
        self._levels = [_levels(genome, costs, column) for column in self._columns.tolist()]
        self.steps = len(self._columns)
        self._lowest, self._highest = genome.diagonal(1.0), genome.diagonal(1.0)
        self._lowest[self._columns] = [each[0] for each in self._levels]
        self._highest[self._columns] = [each[-1] for each in self._levels]
        low, high = costs.share(np.stack([self._lowest, self._highest])).tolist()
        self.range: tuple[float, float] = low, high
        known = [self._known(problem, genome, column) for column in self._columns.tolist()]
        self._fixed = np.hstack([_scaled(np.array(known)), np.eye(self.steps)])
        self.features = self._fixed.shape[1] + self.steps + self.changing

    def take(self, budgets: np.ndarray, act: Callable[[int, np.ndarray], np.ndarray]) -> Paths:
        """Walk once per budget, shape (n,), by the actions that `act` gives.

        `act` is called with every step and the states before it, shape (n, features). What
        it answers is clipped: with all later parameters at their lowest the cost stays
        within the budget, and with all of them at their highest it would reach it.
        """
        count = len(budgets)
        actions = np.zeros((count, self.steps))
        progress = np.empty((count, self.steps, self.changing))
        vectors = np.tile(self._lowest, (count, 1))
        least, most = (np.full(count, cost) for cost in self.range)
        for step, (column, values) in enumerate(zip(self._columns, self._levels, strict=True)):
            before = actions[:, step - 1] if step else np.ones(count)
            progress[:, step] = _progress(budgets, least, most, before)
            states = self.states(np.full(count, step), actions, progress[:, step])
            levels = np.floor(act(step, states) * len(values)).astype(np.int64)
            levels = np.clip(levels, 0, len(values) - 1)
            levels, least, most = self._clipped(step, levels, vectors, budgets)
            vectors[:, column] = values[levels]
            actions[:, step] = (levels + 0.5) / len(values)
        return Paths(actions, progress, vectors)

    def retrace(self, vector: np.ndarray, budget: float) -> Paths:
        """Return the walk that leads to a vector of the genome, or as near as a budget lets it."""
        actions = [
            (np.abs(values - vector[column]).argmin() + 0.5) / len(values)
            for column, values in zip(self._columns, self._levels, strict=True)
        ]
        return self.take(np.array([budget]), lambda step, _: np.array([actions[step]]))

    def states(self, steps: np.ndarray, actions: np.ndarray, progress: np.ndarray) -> np.ndarray:
        """Return the states, shape (n, features), before the given steps, shape (n,).

        `actions` (n, steps) are those of whole walks, of which a state shows the earlier
        ones: what an episode ends with depends on all of them, not on their cost alone.
        """
        earlier = np.arange(self.steps) < steps[:, None]
        return np.hstack([self._fixed[steps], np.where(earlier, actions, 0.0), progress])

    def _clipped(
        self, step: int, levels: np.ndarray, vectors: np.ndarray, budgets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the nearest levels that budgets allow, and the least and most cost after them."""
        least, most = self._bounds(step, levels, vectors)
        outside = np.flatnonzero((least > budgets + _SLACK) | (most < budgets - _SLACK))
        if not len(outside):
            return levels, least, most
        count = len(self._levels[step])
        every = np.tile(np.arange(count), len(outside))
        bounds = self._bounds(step, every, np.repeat(vectors[outside], count, axis=0))
        lows, highs = (each.reshape(-1, count) for each in bounds)
        limits = budgets[outside, None]
        # Levels that cost the same are all allowed, even if the budget is out of reach.
        affordable = lows <= np.maximum(limits, lows.min(axis=1, keepdims=True)) + _SLACK
        enough = highs >= np.minimum(limits, highs.max(axis=1, keepdims=True)) - _SLACK
        top = np.where(affordable, np.arange(count), 0).max(axis=1)
        chosen = np.clip(levels[outside], np.minimum(enough.argmax(axis=1), top), top)
        rows = np.arange(len(outside))
        levels[outside] = chosen
        least[outside], most[outside] = lows[rows, chosen], highs[rows, chosen]
        return levels, least, most

    def _bounds(
        self, step: int, levels: np.ndarray, vectors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the costs with all later parameters at their lowest and at their highest."""
        lowest = vectors.copy()
        lowest[:, self._columns[step]] = self._levels[step][levels]
        highest = lowest.copy()
        later = self._columns[step + 1 :]
        highest[:, later] = self._highest[later]
        least, most = np.split(self._costs.share(np.vstack([lowest, highest])), 2)
        return least, most

    def _known(self, problem: SearchProblem, genome: Genome, column: int) -> list[float]:
        """Return what is known of a parameter beforehand.

        Its place, what it saves, whether it is a choice; and of the group with its name the
        units, and the number, the largest kernel and most positions of what it is part of.
        """
        without = self._highest.copy()
        without[column] = self._lowest[column]
        parameter = genome.parameters[column]
        group = next((x for x in problem.groups.prunable if x.name == parameter.name), None)
        layers = group.layers if group else ()
        rows = [row for row in problem.costs.rows if row.macs and row.module in layers]
        return [
            float(column),
            self.range[1] - float(self._costs.share(without[None])[0]),
            float(isinstance(parameter, Choice)),
            float(group.units if group else 0),
            float(len(rows)),
            float(max((row.constant for row in rows), default=0)),
            float(max((row.macs for row in rows), default=0)),
        ]


def _progress(
    budgets: np.ndarray, least: np.ndarray, most: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """Return what changes along a walk, shape (n, 5).

    The budget, the cost removed so far, what can still be removed, the previous action, and
    about the action that would just spend the budget if all later ones were the same. The
    cost of a chain grows with the square of its widths, hence the root.
    """
    share = (budgets - least) / np.maximum(most - least, _SLACK)
    even = np.sqrt(np.clip(share, 0.0, 1.0))
    return np.stack([budgets, 1.0 - most, most - least, before, even], axis=1)


def _levels(genome: Genome, costs: CostModel, column: int) -> np.ndarray:
    """Return the values of a parameter as numbers of the genome, the cheapest first.

    Options that cost the same stay in the order of the space, which is arbitrary.
    """
    low, high = genome.low[column], genome.high[column]
    is_real = isinstance(genome.parameters[column], Float)
    values = np.linspace(low, high, _FINE if is_real else int(high - low) + 1)
    points = np.tile(genome.diagonal(1.0), (len(values), 1))
    points[:, column] = values
    # Rounded, since equal costs may differ in the last digit.
    ordered: np.ndarray = values[np.round(costs.share(points), 9).argsort(kind="stable")]
    return ordered


def _scaled(features: np.ndarray) -> np.ndarray:
    """Scale every column to [0, 1] over the rows."""
    low, high = features.min(axis=0), features.max(axis=0)
    scaled: np.ndarray = (features - low) / np.where(high > low, high - low, 1.0)
    return scaled
