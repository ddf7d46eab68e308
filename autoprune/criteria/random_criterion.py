"""Random scores: the yardstick that every criterion must beat (Mittal et al., WACV 2018)."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, WeightCriterion
from autoprune.graph.group import PrunableGroup
from autoprune.graph.units import makers
from autoprune.scoring.evidence import Evidence


class Random(WeightCriterion):
    """Uniform random scores, fixed by the job's seed and by the weights.

    The draw hangs on the values of the unit's own weights, not on their places, so that
    reordering channels reorders the scores and changes no other. Groups compare: all are
    uniform in [0, 1).
    """

    cost: ClassVar[Cost] = "weights"

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return scores in [0, 1) of every group, shape (units,)."""
        return {x.name: self._of_units(x, evidence) for x in evidence.groups.prunable}

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return scores in [0, 1) of every weight, equal ones for equal weights of a kernel."""
        return {name: self._of_weights(name, evidence.weights[name]) for name in evidence.kernels}

    def _of_units(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray:
        made = makers(group, evidence.weights)
        scores = np.empty(group.units)
        for unit in range(group.units):
            digest = hashlib.sha256(f"{self.seed}:{group.name}".encode())
            for each in made:
                digest.update(np.sort(each[unit]).tobytes())
            scores[unit] = int.from_bytes(digest.digest()[:7], "big") / 2**56
        return scores

    def _of_weights(self, name: str, weights: np.ndarray) -> np.ndarray:
        seed = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        values, places = np.unique(weights, return_inverse=True)
        drawn: np.ndarray = generator.random(len(values))[places].reshape(weights.shape)
        return drawn
