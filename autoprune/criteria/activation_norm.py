"""Mean size of activations (after Hu et al., Network Trimming, arXiv 2016)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.criteria._observed import polled
from autoprune.scoring.evidence import Evidence


class ActivationNorm(Criterion):
    """Mean absolute activation of a unit where it is read: s = E|x|.

    The mean is over samples and positions. Hu et al. look at the share of zeros, which `apoz`
    offers; their magnitude also tells units apart that are never zero, as behind a GELU.

    Every kernel that reads the group has a vote, scaled to a mean of 1, since norms in front of
    it set a scale of its own. So every group has a mean of 1, and one threshold treats groups
    alike.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the scaled means of every group that is read where it can be seen."""
        return polled(evidence.observed(lambda read: read.abs().mean(dim=2)))
