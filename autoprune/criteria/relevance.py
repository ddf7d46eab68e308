"""Relevance (Yeom et al., Pruning by Explaining, Pattern Recognition 2021)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.graph.group import PrunableGroup
from autoprune.scoring.evidence import Evidence


class Relevance(UnitCriterion):
    """How much a unit speaks for the true class: s = E[max(0, Σ x · dy/dx)], y its logit.

    The sum is over positions and over all kernels that read the unit, the expectation over
    samples. A unit that speaks against the true class is not relevant to it.

    The paper propagates relevance layer by layer with the z⁺-rule, which needs a rule for every
    kind of layer. Here it is the plain rule (LRP-0), which for networks of linear layers and
    ReLUs equals gradient times input (Ancona et al., Towards Better Understanding of
    Gradient-based Attribution, ICLR 2018) and is defined for any network with gradients. It
    lacks what the z⁺-rule does against noise: positive and negative parts cancel on the way.

    Readers add up, since relevance flows back from each of them. What is relevant to a logit
    adds up to the logit itself in every cut through a network without biases, so scores of
    groups compare, and a group of many units has less for each.
    """

    cost: ClassVar[Cost] = "gradients"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs", "labels", "gradients"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the mean positive relevances, shape (units,)."""
        relevances = evidence.contributions.get(group.name)
        return None if relevances is None else np.maximum(relevances, 0.0).mean(axis=0)
