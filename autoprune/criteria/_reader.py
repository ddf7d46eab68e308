"""Layers that read a group, as linear systems, shared by the criteria that solve.

What a layer computes is Wᵀx, and with the second moments G of what it reads every error of
removing inputs follows without the data (`autoprune.surgery.reconstruct`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from autoprune.graph.group import PrunableGroup
from autoprune.surgery.reconstruct import LayerMoments, Moments

_NOTHING = 1e-12
"""Share of what a layer computes that is rounding."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads a group: d inputs in all, m outputs, and `columns` of every unit.

    `columns` has shape (units, width): which of the d inputs are of which unit, filled up with
    -1. `weight` has shape (units, width, m): the kernel by units, zero where nothing is, divided
    by the root of the mean square tr(WᵀGW) of all that the layer computes, so that errors of
    layers compare.
    """

    name: str
    moments: LayerMoments
    columns: Tensor
    weight: Tensor

    def square(self, matrix: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return what a matrix (d, d) says of pairs of inputs, shape (some width, units width).

        `rows` are of which units the first inputs are. What says where nothing is means nothing.
        """
        columns = self.columns.clamp(min=0)
        return matrix[columns[rows].flatten()].index_select(1, columns.flatten())


def readers_of(group: PrunableGroup, moments: Moments) -> list[Reader]:
    """Return the layers with known moments that read a group and compute something."""
    found = []
    for each in group.slices:
        layer = moments.layers.get(each.module)
        if layer is None or each.role != "in":
            continue
        energy = float((layer.weight * (layer.gram @ layer.weight)).sum())
        if not (math.isfinite(energy) and energy > 0.0):
            continue
        places = each.entries[:, :, None]
        own = np.where(places < 0, -1, places * layer.kernel + np.arange(layer.kernel))
        columns = torch.from_numpy(own.reshape(group.units, -1)).to(layer.gram.device)
        weight = layer.weight[columns.clamp(min=0)] * (columns >= 0)[..., None]
        found.append(Reader(each.module, layer, columns, weight / math.sqrt(energy)))
    return found


def scored(order: Sequence[int], errors: Sequence[float]) -> np.ndarray:
    """Return scores, shape (units,), that say in which order units leave.

    `errors` are those when each unit of `order` has left. A unit is worth the largest error so
    far, and a little more than those that left before it. Units without which nothing changes
    all score zero: which of them left first means nothing.
    """
    reached = np.maximum.accumulate(errors)
    reached[reached < _NOTHING] = 0.0
    for earlier, later in pairwise(range(len(reached))):
        if 0.0 < reached[later] <= reached[earlier]:
            reached[later] = np.nextafter(reached[earlier], np.inf)
    scores = np.empty(len(reached))
    scores[list(order)] = reached
    return scores
