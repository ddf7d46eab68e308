"""First-order Taylor expansion of the loss at every unit (Molchanov et al., CVPR 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.graph.group import PrunableGroup
from autoprune.scoring.evidence import Evidence


class Taylor(UnitCriterion):
    """How much the loss changes to first order when a unit leaves: s = E[|m dL/dm|], m = 1.

    The factor m stands before the unit, where others read it, and the expectation is over
    single samples, whose effects may cancel otherwise (equation 8 there, of gates). Scores are
    changes of the loss, so one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the mean absolute changes, shape (units,)."""
        gates = evidence.gates.get(group.name)
        return None if gates is None else np.abs(gates).mean(axis=0)
