"""Fisher pruning (Theis et al., 2018; Liu et al., Group Fisher Pruning, ICML 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.graph.group import PrunableGroup
from autoprune.scoring.evidence import Evidence


class Fisher(UnitCriterion):
    """How much the loss rises to second order when a unit leaves: s = E[(dL/dm)²] / 2, m = 1.

    The factor m stands before the unit, where others read it. One factor serves all readers of a
    coupled group, whose gradients add up before they are squared (Liu et al.). At a minimum the
    first-order change is zero, and the second derivative by m is about the Fisher information:
    the mean over single samples of the squared gradient (Theis et al., Faster Gaze Prediction
    with Dense Networks and Fisher Pruning). Both papers set scores against the memory or the
    operations that a unit costs; here searchers weigh costs. Scores are changes of the loss, so
    one threshold treats groups alike.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return half the mean squared gate gradients, shape (units,)."""
        gates = evidence.gates.get(group.name)
        return None if gates is None else np.square(gates).mean(axis=0) / 2
