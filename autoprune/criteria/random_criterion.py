"""Random scores: the yardstick that every criterion must beat (Mittal et al., WACV 2018)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from autoprune.contracts.criterion import Criterion, unit_weights
from autoprune.graph.group import PrunableGroup


class Random(Criterion):
    """Uniform random scores, fixed by the job's seed and by the weights of the unit.

    The draw hangs on the unit's own weights, not on its place, so that reordering the
    channels reorders the scores.
    """

    def score(self, group: PrunableGroup, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return scores in [0, 1), shape (units,)."""
        makers = unit_weights(group, weights)
        scores = np.empty(group.units)
        for unit in range(group.units):
            digest = hashlib.sha256(f"{self.seed}:{group.name}".encode())
            for each in makers:
                digest.update(each[unit].tobytes())
            scores[unit] = int.from_bytes(digest.digest()[:7], "big") / 2**56
        return scores
