"""Seeing tensors as units: which entries belong to which unit of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.graph.group import PrunableGroup, Role


def of_role(
    group: PrunableGroup, tensors: Mapping[str, np.ndarray], role: Role
) -> dict[str, np.ndarray]:
    """Return every known tensor's entries by unit, shape (units, n) each, of the slices in `role`.

    In the role `out` are kernels that make the units, with their biases; in `in` kernels that
    read them; in `along` what goes with them one by one, as scales and shifts of norms do.
    """
    return {
        each.tensor: each.of_units(tensors[each.tensor])
        for each in group.slices
        if each.role == role and each.tensor in tensors
    }


def makers(group: PrunableGroup, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return what makes every unit: of each kernel or matrix its rows, shape (units, n).

    A group that no kernel makes is seen through those that read it, then through whatever goes
    with it.
    """
    for role in ("out", "in"):
        found = of_role(group, tensors, role)
        if kernels := [each for name, each in found.items() if tensors[name].ndim > 1]:
            return kernels
    return [each.of_units(tensors[each.tensor]) for each in group.slices if each.tensor in tensors]


def summed(group: PrunableGroup, saliencies: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return the sums of what makes every unit, shape (units,); None where nothing is known."""
    made = makers(group, saliencies)
    if not made:
        return None
    total: np.ndarray = sum(each.sum(axis=1, dtype=np.float64) for each in made)
    return total


def voted(votes: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the mean of scores of shape (units,), each scaled to a mean of 1; None without any.

    So layers of a coupled group (a residual stage) vote equally, whatever their fan-in and
    their scale.
    """
    if not votes:
        return None
    scaled = [each / (np.abs(each).mean() or 1.0) for each in votes]
    mean: np.ndarray = np.mean(scaled, axis=0)
    return mean


def norms(
    group: PrunableGroup, tensors: Mapping[str, np.ndarray], power: float
) -> np.ndarray | None:
    """Return the voted p-norms of what makes the units, shape (units,)."""
    made = (np.abs(each.astype(np.float64)) for each in makers(group, tensors))
    return voted([(each**power).sum(axis=1) ** (1.0 / power) for each in made])
