"""HRank (Lin et al., Filter Pruning using High-Rank Feature Map, CVPR 2020)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.criteria._observed import averaged, thinned
from autoprune.scoring.evidence import Evidence


class HRank(Criterion):
    """Mean rank of a unit's feature maps, as a share of the full rank: s = E[rank(X)] / min(h, w).

    Maps are seen where they are read, as matrices (h, w); of a unit with several channels ranks
    and full ranks are added. The expectation is over at most `samples` samples: the paper
    finds that ranks hardly depend on which images are taken. A rank is a whole number, so units
    often tie where there are few samples.

    Dividing by the full rank, which the paper does not do since it compares within layers, lets
    maps of different sizes compare: the mean is taken over the kernels that read the group, and
    one threshold may serve all groups. Groups that are read as no planes, by linear layers
    or at a single position, are left out.

    The cost is one singular value decomposition of each map.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def __init__(self, *, seed: int = 0, samples: int = 64) -> None:
        super().__init__(seed=seed)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, given {samples}")
        self.samples = samples

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the shares of every group that a kernel reads as planes."""
        return averaged(thinned(evidence, self.samples).planes(_shares))


def _shares(planes: Tensor) -> Tensor:
    """Return ranks as shares of the full one, shape (samples, units)."""
    channels, *sides = planes.shape[2:]
    ranks: Tensor = torch.linalg.matrix_rank(planes)
    return ranks.sum(dim=2).double() / (channels * min(sides))
