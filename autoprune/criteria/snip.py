"""SNIP (Lee et al., Single-Shot Network Pruning Based on Connection Sensitivity, ICLR 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.scoring.evidence import Evidence


class Snip(WeightCriterion):
    """Share of a weight in how sensitive the loss is to weights: s = |w g| / Σ|w g|.

    g is the mean gradient over all samples, and the sum runs over all kernels. The paper asks
    this of untrained networks and of one batch; where a trained network is at rest g is small,
    and what is left of it is all that weights are told apart by. A unit is worth the sum over
    the weights that make it: of absolute values, because behind a batch norm the products of a
    filter nearly cancel. Scores are shares of one whole, so one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the shares of every kernel's weights; they sum to 1 over all kernels."""
        effects = {
            name: np.abs(evidence.weights[name] * evidence.gradients[name].astype(np.float64))
            for name in evidence.kernels
        }
        total = sum(float(each.sum()) for each in effects.values()) or 1.0
        return {name: each / total for name, each in effects.items()}
