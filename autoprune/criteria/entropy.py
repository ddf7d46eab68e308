"""Entropy (Luo and Wu, An Entropy-based Pruning Method for CNN Compression, arXiv 2017)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import entr

from autoprune.contracts.criterion import Cost, Criterion, Need
from autoprune.scoring.evidence import Evidence

# A range that is smaller, relative to the values, is rounding.
_FLAT = 1e-6


class Entropy(Criterion):
    """How much a unit's mean activation tells of the sample: s = -Σ p_i log p_i over bins i.

    The activation is averaged over positions; its range over the samples, which is each unit's
    own, is cut into `bins` of equal width, and p_i is the share of samples in bin i. The scale
    of a unit means nothing, and one whose mean is the same for all samples scores 0.

    The paper takes 100 bins and as many images as it likes; with few samples in a bin entropies
    of all units come close to log(samples), so that here 16 are the default, for the few hundred
    samples that are usual. The mean is over the kernels that read the group. All
    entropies are in nats between 0 and log(bins), so one threshold may serve all groups.
    """

    cost: ClassVar[Cost] = "activations"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def __init__(self, *, seed: int = 0, bins: int = 16) -> None:
        super().__init__(seed=seed)
        if bins < 2:
            raise ValueError(f"bins must be at least 2, given {bins}")
        self.bins = bins

    def scores(self, evidence: Evidence) -> dict[str, np.ndarray]:
        """Return the entropies of every group that is read where it can be seen."""
        seen = evidence.observed(lambda read: read.mean(dim=2))
        return {
            group: np.mean([self._entropies(each) for each in readers.values()], axis=0)
            for group, readers in seen.items()
        }

    def _entropies(self, values: np.ndarray) -> np.ndarray:
        """Return the entropies of the columns of values of shape (samples, units)."""
        samples, units = values.shape
        lowest = values.min(axis=0)
        width = values.max(axis=0) - lowest
        is_flat = width <= _FLAT * np.abs(values).max(axis=0)
        places = (values - lowest) / np.where(is_flat, np.inf, width) * self.bins
        # The highest value belongs to the last bin.
        bins = np.minimum(places.astype(np.int64), self.bins - 1) + self.bins * np.arange(units)
        counts = np.bincount(bins.ravel(), minlength=self.bins * units)
        entropies: np.ndarray = entr(counts.reshape(units, self.bins) / samples).sum(axis=1)
        return entropies
