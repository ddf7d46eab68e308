"""Norms of the weights that make a unit, shared by the magnitude criteria."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.contracts.criterion import Criterion, unit_weights
from autoprune.graph.group import PrunableGroup


class Magnitude(Criterion):
    """Mean p-norm of the unit's filters over the group's layers, each layer scaled to mean 1.

    Scaling lets layers of a coupled group (a residual stage) vote equally, whatever
    their fan-in.
    """

    power: int

    def score(self, group: PrunableGroup, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the scaled norms, shape (units,)."""
        votes = []
        for each in unit_weights(group, weights):
            norms = (np.abs(each.astype(np.float64)) ** self.power).sum(axis=1)
            norms **= 1.0 / self.power
            votes.append(norms / (norms.mean() or 1.0))
        scores = np.mean(votes, axis=0)
        if not np.isfinite(scores).all():
            raise ValueError(f"weights of group {group.name!r} are not finite")
        return np.asarray(scores)
