"""Norms of the weights that make a unit, shared by the magnitude criteria."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, WeightCriterion
from autoprune.graph.units import norms
from autoprune.scoring.evidence import Evidence


class Norm(WeightCriterion):
    """Mean p-norm of the unit's filters over the group's layers, each layer scaled to mean 1.

    Scaling lets layers of a coupled group (a residual stage) vote equally, whatever
    their fan-in; so every group has a mean of 1, and one threshold treats groups alike. Single
    weights are ranked by |w|.
    """

    cost: ClassVar[Cost] = "weights"
    power: ClassVar[float]

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return |w|^p of every kernel."""
        return {name: np.abs(evidence.weights[name]) ** self.power for name in evidence.kernels}

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the scaled norms of every group, shape (units,)."""
        found = {x.name: norms(x, evidence.weights, self.power) for x in evidence.groups.prunable}
        return {name: each for name, each in found.items() if each is not None}
