"""The contract of a criterion: what every unit of every group is worth; low scores leave first.

    L1().scores(evidence)          # group → shape (units,), higher is more important
    L1().saliencies(evidence)      # kernel → the kernel's shape, of those that judge weights too

A criterion says what it costs to ask and what it needs, so that both are known before a search.
It must be equivariant to permutations of the units: reordering the channels reorders the scores
and changes nothing else. Scores of different groups are compared by searchers that use one
threshold for all of them, so a criterion should say how its groups compare; policies that give
every group its share use the order within a group alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from autoprune.graph.group import PrunableGroup
from autoprune.graph.units import summed

if TYPE_CHECKING:
    from autoprune.scoring.evidence import Evidence

Cost = Literal["weights", "activations", "gradients", "solve"]
"""What asking a criterion takes: weights alone, forward passes, forward and backward passes, or
linear systems on top of passes."""
Need = Literal["batch_norm", "inputs", "labels", "gradients"]
"""What a network and its data may lack."""
LACKING: Mapping[Need, str] = {
    "batch_norm": "it has no batch norms with scales",
    "inputs": "there are no samples to look at",
    "labels": "the samples have no labels",
    "gradients": "its loss has no gradient: an operation in it has no derivative",
}
"""What to say where a need is not met."""


class Criterion(ABC):
    """Scores the units of all prunable groups. Constructed as `Criterion(seed=..., **options)`."""

    cost: ClassVar[Cost]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def scores(self, evidence: Evidence) -> Mapping[str, np.ndarray]:
        """Return the scores of every group that the criterion can judge, shape (units,) each.

        Groups that it can say nothing about are left out. `evidence` offers what the criterion
        needs, and is not changed.
        """


class UnitCriterion(Criterion):
    """A criterion that judges one group at a time."""

    @abstractmethod
    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return one score per unit, shape (units,); None where nothing is known of the group."""

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the scores of every prunable group that something is known of."""
        found = {each.name: self.score(each, evidence) for each in evidence.groups.prunable}
        return {name: each for name, each in found.items() if each is not None}


class WeightCriterion(Criterion):
    """A criterion that judges single weights; a unit is worth what the weights that make it are."""

    @abstractmethod
    def saliencies(self, evidence: Evidence) -> Mapping[str, np.ndarray]:
        """Return what every weight of `evidence.kernels` is worth, by the kernels' names.

        Each in the shape of its kernel, higher is more important. Kernels that nothing is known
        of are left out.
        """

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the sums over the weights that make each unit, shape (units,)."""
        saliencies = self.saliencies(evidence)
        found = {each.name: summed(each, saliencies) for each in evidence.groups.prunable}
        return {name: each for name, each in found.items() if each is not None}
