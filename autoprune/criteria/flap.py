"""FLAP (An et al., Fluctuation-based Adaptive Structured Pruning for LLMs, AAAI 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.criteria._columns import by_column
from autoprune.graph.group import PrunableGroup
from autoprune.graph.units import of_role, voted
from autoprune.scoring.evidence import Evidence


class Flap(UnitCriterion):
    """What cannot be made up for by a bias: s_j = Var(x_j) · ‖W_:j‖², standardised by groups.

    A unit that hardly varies can leave if the readers' biases take over its mean. The variance
    is over samples and positions of an input channel, W_:j all weights that read it; of a unit
    with several channels the products are added.

    The kernels that read a group vote, each scaled to a mean of 1. Then scores are standardised,
    (s - mean) / deviation, as in the paper, so that groups compare and one threshold treats them
    by how far their units stand out. The paper makes up for the lost means at once; here biases
    stay what they are, unless candidates are repaired.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the standardised fluctuations; None where they are all the same or not seen."""
        products: dict[str, np.ndarray] = {}
        for each in group.slices:
            if each.role == "in" and each.tensor in evidence.input_variances:
                squares = np.square(evidence.weights[each.tensor], dtype=np.float64)
                variances = evidence.input_variances[each.tensor]
                products[each.tensor] = squares * by_column(variances, squares)
        read = of_role(group, products, "in")
        votes = voted([each.sum(axis=1) for each in read.values()])
        if votes is None:
            return None
        spread = float(votes.std())
        # Votes have a mean of 1, and activations are float32: anything smaller is rounding.
        return (votes - votes.mean()) / spread if spread > 1e-6 else None
