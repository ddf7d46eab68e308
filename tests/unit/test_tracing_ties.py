"""Ties against a slow, obvious twin: every assignment of kept and lost, one by one.

The twin only remembers what was asked for, as conditions on booleans. Whatever `Ties` still
allows, every choice of its free factors, must meet all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.tracing.shapes import flattened
from autoprune.tracing.ties import FIXED, Ids, Ties
from tests.assignments import assignments, is_kept, names, row, sets

Condition = Callable[[Callable[[int], bool]], bool]

PROFILE = settings(deadline=None, max_examples=150, derandomize=True)


def test_tied_variables_have_the_same_factors() -> None:
    ties = Ties()
    rows, columns = ties.fresh(3), ties.fresh(6)
    ties.tie(rows, columns[:3])
    assert sets(ties, rows) == sets(ties, columns[:3])
    assert len(names(ties, np.concatenate([rows, columns]))) == 6
    ties.tie(columns[:3], columns[3:])
    assert sets(ties, rows) == sets(ties, columns[3:])
    assert len(names(ties, np.concatenate([rows, columns]))) == 3


def test_the_fixed_variable_is_kept_and_has_no_reason_of_its_own() -> None:
    ties = Ties()
    assert ties.factors(FIXED) == ()
    assert ties.reason(FIXED) == ""
    assert ties.is_fixed(np.array([FIXED, FIXED]))
    ids = ties.fresh(2)
    assert not ties.is_fixed(ids)
    ties.tie(ids[:1], np.array([FIXED]))
    assert ties.factors(int(ids[0])) == ()
    assert ties.reason(int(ids[1])) is None


@pytest.mark.parametrize("freezes_first", [True, False])
def test_what_is_tied_to_a_frozen_entry_is_frozen_for_the_same_reason(freezes_first: bool) -> None:
    ties = Ties()
    one, other = ties.fresh(2), ties.fresh(2)
    if freezes_first:
        ties.freeze(one, "why")
        ties.tie(other, one)
    else:
        ties.tie(other, one)
        ties.freeze(one, "why")
    assert ties.is_fixed(other)
    assert {ties.reason(each) for each in other.tolist()} == {"why"}


def test_of_several_reasons_the_first_stays() -> None:
    ties = Ties()
    ids = ties.fresh(1)
    ties.freeze(ids, "first")
    ties.freeze(ids, "second")
    assert ties.reason(int(ids[0])) == "first"


def test_a_product_is_kept_when_both_of_its_factors_are() -> None:
    ties = Ties()
    outer, inner = ties.fresh(2), ties.fresh(3)
    made = ties.product(outer, inner)
    expected = [{one, other} for one in outer.tolist() for other in inner.tolist()]
    assert sets(ties, made) == expected
    assert np.array_equal(ties.product(outer, inner), made)


def test_a_frozen_factor_leaves_the_other_one() -> None:
    ties = Ties()
    outer, inner = ties.fresh(2), ties.fresh(3)
    made = ties.product(outer, inner)
    ties.freeze(outer, "why")
    assert sets(ties, made) == [{each} for each in [*inner.tolist(), *inner.tolist()]]
    assert ties.reason(int(made[0])) is None
    ties.freeze(inner, "too")
    assert ties.is_fixed(made)
    assert ties.reason(int(made[0])) == "why"


def test_freezing_a_product_freezes_its_factors() -> None:
    ties = Ties()
    outer, inner = ties.fresh(2), ties.fresh(2)
    ties.freeze(ties.product(outer[:1], inner), "why")
    assert ties.is_fixed(outer[:1])
    assert ties.is_fixed(inner)
    assert not ties.is_fixed(outer[1:])


def test_equal_products_tie_their_factors() -> None:
    ties = Ties()
    one, other = (ties.product(ties.fresh(2), ties.fresh(3)) for _ in range(2))
    ties.tie(one, other)
    assert sets(ties, one) == sets(ties, other)
    assert len(names(ties, np.concatenate([one, other]))) == 5


def test_a_variable_tied_to_a_product_becomes_it() -> None:
    ties = Ties()
    made, plain = ties.product(ties.fresh(2), ties.fresh(2)), ties.fresh(4)
    ties.tie(plain, made)
    assert sets(ties, plain) == sets(ties, made)
    assert len(names(ties, plain)) == 4


def test_a_variable_tied_to_a_product_of_itself_becomes_one_with_it() -> None:
    ties = Ties()
    one, other = ties.fresh(1), ties.fresh(1)
    made = ties.product(one, other)
    ties.tie(one, made)
    assert sets(ties, one) == sets(ties, made) == sets(ties, other)
    again = ties.product(made, ties.product(other, one))
    ties.tie(again, one)
    ties.tie(other, again)
    assert len(names(ties, np.concatenate([one, other, made, again]))) == 1


def test_products_that_contain_each_other_in_a_circle_end_as_one_variable() -> None:
    ties = Ties()
    ids = ties.fresh(3)
    for place in range(3):
        left, right = ids[place : place + 1], ids[[(place + 1) % 3]]
        ties.tie(left, ties.product(left, right))
    assert len(names(ties, ids)) == 1


def test_merging_makes_all_variables_one() -> None:
    ties = Ties()
    ids = ties.fresh(4)
    ties.merge(np.concatenate([ties.product(ids[:1], ids[1:2]), ids[2:3]]))
    assert len(names(ties, ids[:3])) == 1
    assert len(names(ties, ids)) == 2


def test_merging_with_a_frozen_variable_freezes_all() -> None:
    ties = Ties()
    ids = ties.fresh(3)
    ties.freeze(ids[1:2], "why")
    ties.merge(ids)
    assert ties.is_fixed(ids)


@pytest.mark.parametrize(("outer", "inner"), [(2, 3), (3, 2), (2, 2), (4, 1), (1, 4)])
def test_splitting_a_product_gives_its_factors_back(outer: int, inner: int) -> None:
    ties = Ties()
    one, other = ties.fresh(outer), ties.fresh(inner)
    before, after = sets(ties, one), sets(ties, other)
    found = ties.split(ties.product(one, other), outer)
    if outer == 1:
        assert found[0] is None  # a single entry of a dimension cannot leave: it is in `found[1]`
        assert sets(ties, found[1]) == [{*before[0], *each} for each in after]
    elif inner == 1:
        assert found[1] is None
        assert sets(ties, found[0]) == [{*each, *after[0]} for each in before]
    else:
        assert sets(ties, found[0]) == before
        assert sets(ties, found[1]) == after


def test_splitting_free_variables_makes_a_product_of_them() -> None:
    ties = Ties()
    ids = ties.fresh(6)
    outer, inner = ties.split(ids, 2)
    assert len(names(ties, outer)) == 2
    assert len(names(ties, inner)) == 3
    assert sets(ties, ids) == sets(ties, ties.product(outer, inner))


def test_splitting_repeated_entries_finds_them() -> None:
    ties = Ties()
    ids = ties.fresh(3)
    outer, inner = ties.split(np.tile(ids, 2), 2)
    assert outer is None
    assert sets(ties, inner) == sets(ties, ids)
    outer, inner = ties.split(np.repeat(ids, 2), 3)
    assert sets(ties, outer) == sets(ties, ids)
    assert inner is None


def test_splitting_where_one_entry_is_frozen_keeps_the_longer_side() -> None:
    ties = Ties()
    ids = ties.fresh(6)
    ties.freeze(ids[:1], "why")
    outer, inner = ties.split(ids, 2)
    assert outer is None
    assert sets(ties, ids) == sets(ties, np.tile(inner, 2))
    assert ties.factors(int(inner[0])) == ()
    assert len(names(ties, inner)) == 2


def equal(left: Ids, right: Ids) -> list[Condition]:
    """Ask that variables are kept together, pair by pair."""
    return [
        lambda kept, one=one, other=other: kept(one) == kept(other)
        for one, other in zip(left.tolist(), right.tolist(), strict=True)
    ]


def grid(outer: Ids | None, inner: Ids | None, made: Ids, rows: int) -> list[Condition]:
    """Ask that entry (r, c) of `made` is kept when r and c are."""
    asked: list[Condition] = []
    for place, each in enumerate(made.tolist()):
        r, c = divmod(place, len(made) // rows)
        parts = [ids[at] for ids, at in ((outer, r), (inner, c)) if ids is not None]
        asked.append(
            lambda kept, each=each, parts=parts: kept(each) == all(kept(int(x)) for x in parts)
        )
    return asked


@st.composite
def histories(draw: st.DrawFn) -> tuple[Ties, list[Ids], list[Condition]]:
    """Draw calls on `Ties`; return it, all variables, and what was asked for."""
    ties, asked = Ties(), list[Condition]()
    lists = [ties.fresh(draw(st.integers(1, 4))) for _ in range(draw(st.integers(1, 2)))]

    def some(size: int | None = None) -> Ids:
        ids = draw(st.sampled_from(lists))
        places = st.integers(0, len(ids) - 1)
        least, most = (1, 4) if size is None else (size, size)
        return ids[draw(st.lists(places, min_size=least, max_size=most))]

    for _ in range(draw(st.integers(0, 6))):
        if len(names(ties, np.concatenate(lists))) > 8:
            break
        kind = draw(st.sampled_from(["tie", "freeze", "merge", "product", "split", "fresh"]))
        if kind == "tie":
            right = some(len(left := some()))
            ties.tie(left, right)
            asked += equal(left, right)
        elif kind == "freeze":
            ids = some()
            ties.freeze(ids, "why")
            asked.extend(lambda kept, each=each: kept(each) for each in ids.tolist())
        elif kind == "merge":
            ids = some()
            ties.merge(ids)
            asked += equal(ids[:-1], ids[1:])
        elif kind == "product":
            outer, inner = some(draw(st.integers(1, 2))), some(draw(st.integers(1, 3)))
            lists.append(ties.product(outer, inner))
            asked += grid(outer, inner, lists[-1], len(outer))
        elif kind == "split":
            rows = draw(st.integers(1, 3))
            ids = some(rows * draw(st.integers(1, 3)))
            outer, inner = ties.split(ids, rows)
            asked += grid(outer, inner, ids, rows)
            lists += [each for each in (outer, inner) if each is not None]
        else:
            lists.append(ties.fresh(draw(st.integers(1, 2))))
    return ties, lists, asked


@given(histories())
@PROFILE
def test_whatever_is_still_free_meets_everything_that_was_asked(
    history: tuple[Ties, list[Ids], list[Condition]],
) -> None:
    ties, lists, asked = history
    for kept in assignments(names(ties, np.concatenate(lists))):
        values = {each: is_kept(ties, kept, each) for ids in lists for each in ids.tolist()}
        assert all(condition(values.__getitem__) for condition in asked)


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=5),
    st.lists(st.integers(0, 5), max_size=2),
)
@PROFILE
def test_without_products_every_choice_that_is_allowed_is_left(
    count: int, pairs: list[tuple[int, int]], frozen: list[int]
) -> None:
    ties = Ties()
    ids = ties.fresh(count)
    pairs = [(one % count, other % count) for one, other in pairs]
    frozen = [each % count for each in frozen]
    for one, other in pairs:
        ties.tie(ids[[one]], ids[[other]])
    ties.freeze(ids[frozen], "why")
    allowed = [
        values
        for values in itertools.product([True, False], repeat=count)
        if all(values[one] == values[other] for one, other in pairs)
        and all(values[each] for each in frozen)
    ]
    left = [tuple(row(ties, kept, ids, count).tolist()) for kept in assignments(names(ties, ids))]
    assert sorted(left) == sorted(allowed)


@given(histories(), st.data())
@PROFILE
def test_splitting_undoes_a_product(
    history: tuple[Ties, list[Ids], list[Condition]], data: st.DataObject
) -> None:
    ties, lists, _ = history
    outer, inner = data.draw(st.sampled_from(lists)), data.draw(st.sampled_from(lists))
    made = ties.product(outer, inner)
    free = names(ties, np.concatenate(lists))
    before = [row(ties, kept, made, len(made)) for kept in assignments(free)]
    found = ties.split(made, len(outer))
    again = flattened(ties, list(found), [len(outer), len(inner)])
    # Nothing was tied on the way: what is free, and what each choice means, are as before.
    assert names(ties, np.concatenate(lists)) == free
    after = [row(ties, kept, again, len(made)) for kept in assignments(free)]
    assert np.array_equal(before, after)
