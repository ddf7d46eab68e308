"""Scales of batch norms (Liu et al., Network Slimming, ICCV 2017)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.graph.group import PrunableGroup, Slice
from autoprune.graph.units import of_role
from autoprune.scoring.evidence import Evidence


class BnScale(UnitCriterion):
    """Mean size of the factors that batch norms give a unit: s = mean |γ|.

    The mean is over the channels of a unit, then over the batch norms that go with the group:
    all vote alike, so a channel that runs through a residual stage leaves early only if its
    norms agree. What a batch norm scales has a variance of one whatever came before, so |γ| of
    different layers compare as they are, and one threshold treats groups alike, as it does in
    the paper. There the network is trained with a penalty on |γ| first; without one, the scores
    tell less. Scales of other norms do not count: those divide by what channels have in common.
    Groups without a batch norm that has scales are left out.
    """

    cost: ClassVar[Cost] = "weights"
    needs: ClassVar[frozenset[Need]] = frozenset({"batch_norm"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the mean scales, shape (units,); None for a group without batch norms."""
        scales = [each for each in group.slices if _is_scale(each, evidence)]
        found = of_role(group.with_slices(scales), evidence.weights, "along")
        if not found:
            return None
        votes = [np.abs(each.astype(np.float64)).mean(axis=1) for each in found.values()]
        mean: np.ndarray = np.mean(votes, axis=0)
        return mean


def _is_scale(each: Slice, evidence: Evidence) -> bool:
    return each.tensor.rpartition(".")[2] == "weight" and isinstance(
        evidence.model.get_submodule(each.module), _BatchNorm
    )
