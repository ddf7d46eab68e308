"""Random orders of labelled data that are balanced wherever they are cut."""

from __future__ import annotations

import numpy as np


def stratified_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random order of the positions of `labels` (n,), int64 of shape (n,).

    Every prefix, suffix and window of the order holds each class in very nearly the
    proportion that it has in `labels`: item r of a class of size m, in random order, is
    placed at a random point of [r / m, (r + 1) / m), so a share t of the order holds
    between t * m - 1 and t * m + 1 items of that class, up to the rounding of t itself.
    With classes of equal size, the first half holds exactly half of each.
    """
    points = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks = generator.permutation(len(members))
        points[members] = (ranks + generator.random(len(members))) / len(members)
    return np.argsort(points, kind="stable")
