"""What every point of a space costs, for thousands of points at once."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.graph.cost import COLUMNS
from autoprune.policy import Policy
from autoprune.space import Choice, Float

from ._genome import Genome

CostName = Literal["macs", "params", "size_bytes", "bitops"]
_NAMES: tuple[CostName, ...] = get_args(CostName)
# Points on which the table of single steps is compared with the space's own decoding.
_CHECKED = 16


class CostModel:
    """One cost of vectors of a genome, exact, as a share of the dense network's.

    Where every parameter decides on groups, blocks and layers of its own, as in all spaces but
    those that share one between parameters, what each of its values changes is read off
    once, and a thousand points cost milliseconds. Elsewhere each point is decoded.
    Real-valued parameters are decoded as well.

    Args:
        name: Which cost. By default the first one among the goals, else macs.
    """

    def __init__(self, problem: SearchProblem, name: CostName | None = None) -> None:
        goals = [goal.name for goal in problem.goals]
        self.name: str = name or next((each for each in goals if each in _NAMES), "macs")
        self._problem = problem
        self._genome = Genome(problem.space)
        self._column = COLUMNS.index(self.name)
        self.dense = float(self._totals(problem.costs.state(Policy())[None])[0])
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
        states = self._origin + sum(table[indices[:, place]] for place, table in enumerate(steps))
        share: np.ndarray = self._totals(states) / self.dense
        return share

    def _decoded(self, vectors: np.ndarray) -> np.ndarray:
        space, genome = self._problem.space, self._genome
        return np.array([self.of(space.decode(genome.values(each))) for each in vectors])

    def _read_steps(self) -> list[np.ndarray] | None:
        """Return per parameter what each value changes, shape (values, width of a state).

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
        return self._problem.costs.state(policy)

    def _totals(self, states: np.ndarray) -> np.ndarray:
        column: np.ndarray = self._problem.costs.of_states(states)[:, self._column]
        return column
