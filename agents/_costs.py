"""What every point of a space costs, for thousands of points at once."""

from __future__ import annotations

from typing import Literal

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.policy import Policy
from autoprune.space import Choice, Float

from ._genome import Genome

CostName = Literal["macs", "params", "size_bytes"]
_COLUMNS: tuple[CostName, ...] = ("macs", "params", "size_bytes")
# Points on which the table of single steps is compared with the space's own decoding.
_CHECKED = 16


class CostModel:
    """One cost of vectors of a genome, exact, as a share of the dense network's.

    Where every parameter decides on groups and blocks of its own, as in all spaces but
    those that share a group between parameters, what each of its values keeps is read off
    once, and a thousand points cost milliseconds. Elsewhere each point is decoded.
    Real-valued parameters are decoded as well.

    Args:
        name: Which cost. By default the first one among the goals, else macs.
    """

    def __init__(self, problem: SearchProblem, name: CostName | None = None) -> None:
        goals = [goal.name for goal in problem.goals]
        self.name: str = name or next((each for each in goals if each in _COLUMNS), "macs")
        self._problem = problem
        self._genome = Genome(problem.space)
        self._column = _COLUMNS.index(self.name)
        self._blocks = [block.name for block in problem.groups.blocks]
        self.dense = float(self._totals(*self._state(Policy()))[0])
        self._steps = self._read_steps()

    def share(self, vectors: np.ndarray) -> np.ndarray:
        """Return the cost over the dense network's, shape (n,), of vectors (n, parameters)."""
        snapped = self._genome.snap(np.asarray(vectors, dtype=np.float64))
        if self._steps is None:
            return self._decoded(snapped)
        return self._looked_up(snapped, self._steps)

    def of(self, policy: Policy) -> float:
        """Return the cost of a policy over the dense network's."""
        return float(getattr(self._problem.costs.costs(policy), self.name)) / self.dense

    def _looked_up(self, vectors: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
        indices = (vectors - self._genome.low).astype(np.int64)
        state = self._origin + sum(table[indices[:, column]] for column, table in enumerate(steps))
        groups = len(self._problem.groups)
        return self._totals(state[:, :groups], state[:, groups:]) / self.dense

    def _decoded(self, vectors: np.ndarray) -> np.ndarray:
        space, genome = self._problem.space, self._genome
        return np.array([self.of(space.decode(genome.values(each))) for each in vectors])

    def _read_steps(self) -> list[np.ndarray] | None:
        """Return per parameter what each value changes, shape (values, groups + blocks).

        None where the changes do not add up, or a parameter is a real number.
        """
        genome, space = self._genome, self._problem.space
        if any(isinstance(each, Float) for each in space.parameters):
            return None
        base = genome.low.copy()
        self._origin = self._row(base)
        steps = []
        for column, each in enumerate(space.parameters):
            last = len(each.options) - 1 if isinstance(each, Choice) else each.high - each.low
            rows = []
            for step in range(int(last) + 1):
                vector = base.copy()
                vector[column] += step
                rows.append(self._row(vector) - self._origin)
            steps.append(np.array(rows))
        points = genome.from_unit(np.random.default_rng(0).random((_CHECKED, len(base))))
        adds_up = np.allclose(self._looked_up(points, steps), self._decoded(points))
        return steps if adds_up else None

    def _row(self, vector: np.ndarray) -> np.ndarray:
        policy = self._problem.space.decode(self._genome.values(vector))
        kept, dropped = self._state(policy)
        return np.concatenate([kept[0], dropped[0]])

    def _state(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """Return kept units, shape (1, groups), and dropped blocks, shape (1, blocks)."""
        groups = self._problem.groups
        kept = groups.kept_units(policy)
        counts = [kept.get(group.name, group.units) for group in groups]
        dropped = [name in policy.dropped for name in self._blocks]
        return np.array([counts], dtype=np.float64), np.array([dropped], dtype=np.float64)

    def _totals(self, kept: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        totals = self._problem.costs.of_kept(kept, dropped > 0.5 if dropped.size else None)
        column: np.ndarray = totals[:, self._column]
        return column
