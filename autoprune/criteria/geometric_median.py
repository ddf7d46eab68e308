"""FPGM (He et al., Filter Pruning via Geometric Median, CVPR 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, UnitCriterion
from autoprune.graph.group import PrunableGroup
from autoprune.graph.units import makers, voted
from autoprune.scoring.evidence import Evidence

_BLOCK = 4096  # rows of distances at a time


class GeometricMedian(UnitCriterion):
    """How far a filter is from all others of its layer: s = Σ_v ‖w − w_v‖.

    The filter with the least sum is nearest to the geometric median of its layer: the others
    can stand in for it best, so it leaves first, small or not. Layers of a coupled group vote,
    each scaled to a mean of 1; so every group has a mean of 1, and one threshold treats groups
    alike. The paper gives every layer the same share. Two units are as far from one another,
    so of groups of two nothing is told.
    """

    cost: ClassVar[Cost] = "weights"

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the voted sums of distances, shape (units,)."""
        return voted([_distances(each) for each in makers(group, evidence.weights)])


def _distances(filters: np.ndarray) -> np.ndarray:
    """Return every row's sum of distances to all rows up to a factor, float64, shape (units,).

    By ½‖a‖² + ½‖b‖² − ab, which cancels where filters have much in common; so their mean is
    taken away first, and what is left brought to a size whose squares neither vanish nor
    overflow.
    """
    # Single precision is enough for what is left, and takes half the time.
    apart = filters - filters.mean(axis=0, dtype=np.float64).astype(filters.dtype)
    apart /= np.abs(apart).max(initial=0.0) or 1.0
    halves = 0.5 * np.einsum("un,un->u", apart, apart)
    sums = np.empty(len(apart))
    for start in range(0, len(apart), _BLOCK):
        rows = slice(start, start + _BLOCK)
        squared = np.add.outer(halves[rows], halves)
        squared -= apart[rows] @ apart.T
        # What rounding leaves of a filter's distance to itself is none.
        np.fill_diagonal(squared[:, start:], 0.0)
        np.maximum(squared, 0.0, out=squared)
        sums[rows] = np.sqrt(squared, out=squared).sum(axis=1, dtype=np.float64)
    return sums
