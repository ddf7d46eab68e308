"""What predictors see of the points of a space."""

from __future__ import annotations

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.space import Choice

from ._genome import Genome
from ._levels import Levels


class Inputs:
    """Columns in [0, 1]: what every ordered parameter gives up, averages, and options.

    Of units that is the share of the range, of bits and ranks the noise that they bring, its
    root, as a share of the most. The average over parameters of one kind is where groups are
    alike until results tell them apart. Every option has a column.
    """

    def __init__(self, problem: SearchProblem, genome: Genome) -> None:
        self._genome = genome
        self._span = np.where(genome.high > genome.low, genome.high - genome.low, 1.0)
        self._columns = np.flatnonzero(genome.ordered)
        self._kinds = genome.kinds[self._columns]
        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if self._kinds.any():
            levels = Levels(problem, genome)
            for row in np.flatnonzero(self._kinds).tolist():
                most = levels.lost[row].max()
                table = levels.lost[row] / (most if most > 0.0 else 1.0)
                self._tables[row] = (levels.values[row], table)

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Return the columns, shape (n, columns), of vectors of the genome (n, parameters)."""
        genome = self._genome
        ordered = ((genome.high - vectors) / self._span)[:, self._columns]
        for row, (values, table) in self._tables.items():
            places = np.abs(vectors[:, [self._columns[row]]] - values).argmin(axis=1)
            ordered[:, row] = table[places]
        averages = [
            ordered[:, self._kinds == kind].mean(axis=1, keepdims=True)
            for kind in np.unique(self._kinds)
        ]
        options = [
            vectors[:, [column]] == np.arange(len(each.options))
            for column, each in enumerate(genome.parameters)
            if isinstance(each, Choice)
        ]
        return np.hstack([ordered, *averages, *options]).astype(np.float64)
