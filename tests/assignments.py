"""The slow twin of ties: every assignment of kept and lost entries, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from autoprune.tracing.shapes import Labels
from autoprune.tracing.ties import Ids, Ties

Kept = Mapping[int, bool]


def names(ties: Ties, ids: Ids) -> list[int]:
    """Return all free factors of the variables."""
    return sorted({each for one in ids.tolist() for each in ties.factors(one)})


def assignments(factors: Sequence[int]) -> Iterator[Kept]:
    for values in itertools.product([True, False], repeat=len(factors)):
        yield dict(zip(factors, values, strict=True))


def is_kept(ties: Ties, kept: Kept, variable: int) -> bool:
    return all(kept[each] for each in ties.factors(variable))


def row(ties: Ties, kept: Kept, ids: Ids | None, size: int) -> np.ndarray:
    """Return which entries of a dimension are kept, shape (size,)."""
    if ids is None:
        return np.ones(size, dtype=bool)
    return np.array([is_kept(ties, kept, each) for each in ids.tolist()])


def grid(ties: Ties, kept: Kept, labels: Labels, shape: Sequence[int]) -> np.ndarray:
    """Return which entries of a tensor are kept, in its shape."""
    whole = np.ones(tuple(shape), dtype=bool)
    for axis, (ids, size) in enumerate(zip(labels, shape, strict=True)):
        whole &= row(ties, kept, ids, size).reshape([-1] + [1] * (len(shape) - axis - 1))
    return whole


def sets(ties: Ties, ids: Ids | None) -> list[set[int]] | None:
    return None if ids is None else [set(ties.factors(each)) for each in ids.tolist()]
