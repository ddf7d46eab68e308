"""LAMP (Lee et al., Layer-Adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, WeightCriterion
from autoprune.graph.units import norms
from autoprune.scoring.evidence import Evidence

_ROUNDING = 1e-12


class Lamp(WeightCriterion):
    """A weight's share in what is left when all smaller ones are gone: s = w² / Σ{v² : v² ≥ w²}.

    The sum is over one kernel and takes in all weights of the same size, so that these score the
    same, where the paper breaks ties in any order; the largest scores 1 if it is alone, and a
    zero scores 0. Units are scored in the same way within their group, by the squares of their
    voted L2 norms, so their order is that of `l2`. Scores are made to be compared: one threshold
    over all groups gives every group a share of its own, and none below 1 empties a group whose
    largest unit is alone.
    """

    cost: ClassVar[Cost] = "weights"

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the shares of every kernel's weights, float32."""
        return {
            name: _shares(np.abs(evidence.weights[name])).astype(np.float32)
            for name in evidence.kernels
        }

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the shares of every group's units, shape (units,)."""
        found = {x.name: norms(x, evidence.weights, 2.0) for x in evidence.groups.prunable}
        return {name: _shares(each) for name, each in found.items() if each is not None}


def _shares(sizes: np.ndarray) -> np.ndarray:
    """Return x² / Σ{y² : y ≥ x} of every x ≥ 0, float64, in the shape given."""
    flat = sizes.reshape(-1)
    order = np.argsort(flat)
    ascending = flat[order].astype(np.float64)
    squares = ascending**2
    left = np.cumsum(squares[::-1])[::-1]
    # Of equal ones all are left, so the place where their run begins counts for each of them.
    # Norms of units with the same weights in another order are equal but for rounding.
    begins = np.flatnonzero(np.diff(ascending, prepend=-1.0) > _ROUNDING * ascending)
    left = np.repeat(left[begins], np.diff(begins, append=len(flat)))
    shares = np.empty(len(flat))
    shares[order] = np.divide(squares, left, out=np.zeros(len(flat)), where=left > 0.0)
    return shares.reshape(sizes.shape)
