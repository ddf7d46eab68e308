"""Lookahead (Park et al., A Far-Sighted Alternative of Magnitude-based Pruning, ICLR 2020)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, WeightCriterion
from autoprune.criteria._neighbourhood import Neighbourhood
from autoprune.scoring.evidence import Evidence


class Lookahead(WeightCriterion):
    """How much a weight counts together with its neighbours: s = |a·w| · ‖a'·row‖ · ‖column‖.

    The row is the one of the previous kernel that makes the channel which the weight reads, the
    column the one of the next kernel that reads the channel which the weight makes; a and a' are
    what batch norms after the weight's kernel and after the previous one multiply with,
    |γ|/√(σ² + ε). As in the paper, the column is taken without the batch norm after it. A unit
    is worth the sum over the weights that make it.

    Neighbours are found in the groups, frozen ones too: whatever makes a group comes before
    whatever reads it. Of several neighbours, in a residual stage or side by side, the squares
    are added under the root; where there is none, as at the network's inputs and outputs, the
    factor is 1. This is coarser than the paper, which follows a residual stage from layer to
    layer and adds 1 for the identity of a shortcut: groups do not tell where one is.

    Scores grow with the strength of three layers at once, and layers differ in it: they rank
    the units of a group, and one threshold for all groups favours strong layers. The paper
    gives every layer its share.
    """

    cost: ClassVar[Cost] = "weights"

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return |w| times the factors of its neighbours and batch norms, float32."""
        factors = Neighbourhood(evidence).factors()
        found: dict[str, np.ndarray] = {}
        for name in evidence.kernels:
            worth = np.abs(evidence.weights[name])
            for dim, factor in factors.get(name, ()):
                shape = [1] * worth.ndim
                shape[dim] = -1
                worth *= factor.astype(np.float32).reshape(shape)
            found[name] = worth
        return found
