"""The contract of a criterion: one score per unit of a group; low scores leave first.

    scores = L1().score(group, parameters)      # shape (units,), float64, finite

A criterion must be equivariant to permutations of the units: reordering the channels
reorders the scores and changes nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from autoprune.graph.group import PrunableGroup


class Criterion(ABC):
    """Ranks the units of a group. Constructed as `Criterion(seed=..., **options)`."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def score(self, group: PrunableGroup, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return one score per unit, shape (units,); higher is more important.

        `weights` maps module names to their weight, output channels first. Raises
        `ValueError` where the scores are not finite.
        """
