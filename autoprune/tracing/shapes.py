"""How the variables of a tensor's dimensions follow a change of its shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.tracing.ties import Ids, Ties

Labels = list[Ids | None]
"""One entry per dimension of a tensor: its variables, or None where all entries stay."""


def unlabelled(count: int) -> Labels:
    """Return the labels of `count` dimensions in which all entries stay."""
    return [None] * count


def reshaped(ties: Ties, labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """Return the labels after a view of a tensor of shape `old` as shape `new`.

    Dimensions are matched in the shortest runs of equal size; a run is flattened, then
    split again.
    """
    result: Labels = []
    at, to = 0, 0
    while at < len(old) or to < len(new):
        if at < len(old) and old[at] == 1:
            at += 1
        elif to < len(new) and new[to] == 1:
            result.append(None)
            to += 1
        else:
            run, part = _run(old[at:], new[to:])
            flat = flattened(ties, labels[at : at + run], old[at : at + run])
            result += unflattened(ties, flat, new[to : to + part])
            at, to = at + run, to + part
    return result


def _run(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """Return how many leading dimensions of both sides hold equally many entries."""
    run, part, left, right = 1, 1, old[0], new[0]
    while left != right:
        if left < right:
            left, run = left * old[run], run + 1
        else:
            right, part = right * new[part], part + 1
    return run, part


def flattened(ties: Ties, labels: Labels, sizes: Sequence[int]) -> Ids | None:
    """Return the variables of dimensions that become one."""
    flat, length = labels[0], sizes[0]
    for ids, size in zip(labels[1:], sizes[1:], strict=True):
        if flat is None:
            flat = None if ids is None else np.tile(ids, length)
        else:
            flat = np.repeat(flat, size) if ids is None else ties.product(flat, ids)
        length *= size
    return flat


def unflattened(ties: Ties, flat: Ids | None, sizes: Sequence[int]) -> Labels:
    """Return the variables of the dimensions that one is split into."""
    result: Labels = []
    for size in sizes[:-1]:
        outer: Ids | None = None
        if flat is not None:
            outer, flat = ties.split(flat, size)
        result.append(outer)
    return [*result, flat]
