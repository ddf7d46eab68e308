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

        `weights` maps names of parameters to their values. Raises `ValueError` where the
        scores are not finite.
        """


def unit_weights(group: PrunableGroup, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return what makes every unit: per kernel or matrix its rows, shape (units, n) each.

    A group that no kernel makes is seen through those that read it, then through all.
    """
    known = [each for each in group.slices if each.tensor in weights]
    kernels = [each for each in known if weights[each.tensor].ndim > 1]
    for chosen in (
        [each for each in kernels if each.role == "out"],
        [each for each in kernels if each.role == "in"],
        known,
    ):
        if chosen:
            return [each.of_units(weights[each.tensor]) for each in chosen]
    raise ValueError(f"no weights of group {group.name!r} are known")
