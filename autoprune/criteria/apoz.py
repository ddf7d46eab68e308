"""Share of zeros (Hu et al., Network Trimming, arXiv 2016)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.criteria._observed import averaged
from autoprune.scoring.evidence import Evidence


class Apoz(Criterion):
    """How often a unit is not zero where it is read: s = 1 - APoZ = P(x ≠ 0).

    The share is over samples and positions, then the mean over the kernels that read the group.
    The paper counts right after the activation function; here a pooling in between has already
    taken its part, since what counts is what the next layer gets.

    Shares lie in [0, 1] and mean the same in all groups, so one threshold may serve all; it
    empties layers that are sparse by nature first. Where nothing is ever exactly zero, as behind
    a GELU or a layer norm, all units are alike and nothing is told of the group.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the shares of every group that is read where it can be seen."""
        return averaged(evidence.observed(lambda read: (read != 0).float().mean(dim=2)))
