"""Greedy removal by what readers compute (Luo et al., ThiNet, ICCV 2017)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.criterion import Cost, Need, UnitCriterion
from autoprune.criteria._reader import Reader, readers_of, scored
from autoprune.graph.group import PrunableGroup
from autoprune.scoring.evidence import Evidence

_ENTRIES = 2**24


class ThiNet(UnitCriterion):
    """Squared error of the next layers' outputs when a unit is the next to leave, uncorrected.

    Without the units T a layer's outputs Wᵀx are off by E(T) = tr(W_Tᵀ G_TT W_T) in mean square,
    G being the moments of x. Units leave one by one, always the one that keeps
    E = Σ_{t, u ∈ T} A_tu smallest, with A_tu the sum of (W Wᵀ) ∘ G over the inputs that are of
    t and of u. A score is the largest E until its unit has left, so scores tell the order.

    The paper draws single outputs to sum over; the moments hold all of them. Several readers add
    up, each relative to the mean square of all that it computes: scores are shares of lost
    signal, and one threshold treats groups alike. Readers without moments (convolutions in
    several groups, the largest layers) say nothing; a group without others is left out.
    """

    cost: ClassVar[Cost] = "solve"
    needs: ClassVar[frozenset[Need]] = frozenset({"inputs"})

    def score(self, group: PrunableGroup, evidence: Evidence) -> np.ndarray | None:
        """Return the relative errors at which units leave, shape (units,)."""
        readers = readers_of(group, evidence.moments)
        if not readers:
            return None
        return _removed(np.sum([_pairs(each).cpu().numpy() for each in readers], axis=0))


def _pairs(reader: Reader) -> Tensor:
    """Return the mean products of what every two units add to the outputs, (units, units)."""
    units, width = reader.columns.shape
    weight = reader.weight.flatten(0, 1)
    # In strips, since all pairs of inputs would take as much memory as the moments once more.
    count = max(1, _ENTRIES // (width * len(weight)))
    strips = []
    for first in range(0, units, count):
        rows = slice(first, first + count)
        strip = reader.weight[rows].flatten(0, 1) @ weight.T
        strip *= reader.square(reader.moments.gram, rows)
        strips.append(strip.view(-1, width, units, width).sum(dim=(1, 3)))
    return torch.cat(strips)


def _removed(pairs: np.ndarray) -> np.ndarray:
    """Return the scores of greedy removal, shape (units,)."""
    gain = pairs.diagonal().copy()
    error, order, errors = 0.0, [], []
    for _ in range(len(pairs)):
        unit = int(gain.argmin())
        error += float(gain[unit])
        order.append(unit)
        errors.append(error)
        gain += 2.0 * pairs[unit]
        gain[unit] = np.inf
    return scored(order, errors)
