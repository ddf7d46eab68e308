"""Views: which entries a tensor keeps does not depend on the shape it is seen in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.tracing.shapes import Labels, flattened, reshaped, unflattened
from autoprune.tracing.ties import FIXED, Ties
from tests.assignments import assignments, grid, names, sets

PROFILE = settings(deadline=None, max_examples=150, derandomize=True)


def labelled(ties: Ties, shape: Sequence[int], holes: Sequence[bool]) -> Labels:
    """Return fresh labels; a single entry cannot leave, and a hole stays whole."""
    pairs = zip(shape, holes, strict=True)
    return [None if size == 1 or hole else ties.fresh(size) for size, hole in pairs]


@pytest.mark.parametrize(
    ("old", "new", "free"),
    [
        ((4,), (4,), 4),
        ((6,), (2, 3), 5),  # two rows and three columns
        ((2, 3), (6,), 5),
        ((2, 3), (3, 2), 2),  # no product fits: all rows are tied, and all columns
        ((2, 3, 4), (6, 4), 9),
        ((2, 3, 4), (2, 12), 9),
        ((12,), (2, 3, 2), 7),
        ((1, 6), (6, 1), 6),
        ((1, 1), (1,), 0),
        ((2, 6), (2, 2, 3), 7),
    ],
)
def test_a_reshape_leaves_this_many_choices(
    old: tuple[int, ...], new: tuple[int, ...], free: int
) -> None:
    ties = Ties()
    labels = labelled(ties, old, [False] * len(old))
    after = reshaped(ties, labels, old, new)
    known = [ids for ids in (*labels, *after) if ids is not None]
    assert len(names(ties, np.concatenate([*known, [FIXED]]))) == free


def test_dimensions_of_one_entry_carry_no_labels() -> None:
    ties = Ties()
    ids = ties.fresh(3)
    there = reshaped(ties, [None, ids], (1, 3), (3, 1, 1))
    assert [sets(ties, each) for each in there] == [sets(ties, ids), None, None]
    back = reshaped(ties, there, (3, 1, 1), (1, 3))
    assert [sets(ties, each) for each in back] == [None, sets(ties, ids)]


def test_flattening_with_a_dimension_that_stays_repeats_the_other() -> None:
    ties = Ties()
    ids = ties.fresh(2)
    assert sets(ties, flattened(ties, [ids, None], (2, 3))) == sets(ties, np.repeat(ids, 3))
    assert sets(ties, flattened(ties, [None, ids], (3, 2))) == sets(ties, np.tile(ids, 3))
    assert flattened(ties, [None, None], (3, 2)) is None
    assert unflattened(ties, None, (3, 2)) == [None, None]


SHAPES = st.lists(st.integers(1, 3), max_size=4).filter(lambda shape: 2 <= math.prod(shape) <= 24)


@st.composite
def views(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool]]:
    """Draw a shape, another one of as many entries, and which dimensions stay whole."""
    primes = [each for each in draw(SHAPES) if each > 1]
    shapes = []
    for _ in range(2):
        shape = [1]
        for each in draw(st.permutations(primes)):
            if draw(st.booleans()):
                shape[-1] *= each
            else:
                shape.append(each)
        shapes.append(shape if draw(st.booleans()) or len(shape) == 1 else shape[1:] + shape[:1])
    holes = draw(st.lists(st.booleans(), min_size=len(shapes[0]), max_size=len(shapes[0])))
    return shapes[0], shapes[1], holes


@given(views())
@PROFILE
def test_a_view_keeps_the_same_entries_there_and_back(
    view: tuple[list[int], list[int], list[bool]],
) -> None:
    old, new, holes = view
    ties = Ties()
    labels = labelled(ties, old, holes)
    there = reshaped(ties, labels, old, new)
    back = reshaped(ties, there, new, old)
    known = [ids for ids in (*labels, *there, *back) if ids is not None]
    for kept in assignments(names(ties, np.concatenate([*known, [FIXED]]))):
        before = grid(ties, kept, labels, old)
        assert np.array_equal(grid(ties, kept, there, new), before.reshape(new))
        assert np.array_equal(grid(ties, kept, back, old), before)


@given(views())
@PROFILE
def test_merging_dimensions_and_splitting_them_again_gives_the_same_labels(
    view: tuple[list[int], list[int], list[bool]],
) -> None:
    shape, _, holes = view
    ties = Ties()
    labels = labelled(ties, shape, holes)
    before = [sets(ties, ids) for ids in labels]
    flat = reshaped(ties, labels, shape, [math.prod(shape)])
    back = reshaped(ties, flat, [math.prod(shape)], shape)
    assert [sets(ties, ids) for ids in back] == before
