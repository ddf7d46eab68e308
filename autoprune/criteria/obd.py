"""Second-order saliency (LeCun, Denker and Solla, Optimal Brain Damage, NIPS 1989)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, WeightCriterion
from autoprune.scoring.evidence import Evidence


class OptimalBrainDamage(WeightCriterion):
    """How much the loss rises to second order when a weight leaves alone: s = h w² / 2.

    In the paper h is the diagonal of the loss's Hessian. Here it is replaced by the diagonal of
    the empirical Fisher information (`Evidence.fisher`), which equals it in expectation where
    the network's outputs are the true probabilities, and is never negative. A unit is worth the
    sum over the weights that make it, which leaves out how these weights act together. Scores
    are changes of the loss, so one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return h w² / 2 of every kernel."""
        return {
            name: evidence.fisher[name] * np.square(evidence.weights[name], dtype=np.float64) / 2
            for name in evidence.kernels
        }
