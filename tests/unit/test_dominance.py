"""Non-dominated vectors, taken in one by one, all at once or sifted, against one slow twin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune import dominance
from autoprune.dominance import NonDominated, standing

Vector = tuple[int, list[float]]
# Few distinct values, so that ties and duplicates are the rule.
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0])


@st.composite
def vectors(draw: st.DrawFn, most: int = 30) -> list[Vector]:
    """Draw numbered vectors in any order of arrival."""
    goals = draw(st.integers(1, 4))
    numbers = draw(st.permutations(range(draw(st.integers(1, most)))))
    return [(n, draw(st.lists(VALUES, min_size=goals, max_size=goals))) for n in numbers]


def twin(given: Sequence[Vector]) -> dict[int, list[float]]:
    """Compare every vector with every other one."""

    def is_beaten(one: Vector) -> bool:
        return any(
            (x[1] == one[1] and x[0] < one[0])
            or (x[1] != one[1] and all(a <= b for a, b in zip(x[1], one[1], strict=True)))
            for x in given
        )

    return {number: losses for number, losses in given if not is_beaten((number, losses))}


def content(known: NonDominated) -> dict[int, list[float]]:
    return dict(zip(known.numbers.tolist(), known.losses.tolist(), strict=True))


def arrays(given: Sequence[Vector]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([n for n, _ in given]), np.array([losses for _, losses in given])


@given(vectors())
@settings(deadline=None, max_examples=200)
def test_one_by_one_it_says_who_comes_and_who_leaves(given: list[Vector]) -> None:
    known, before = NonDominated(len(given[0][1])), dict[int, list[float]]()
    for count, (number, losses) in enumerate(given, 1):
        left = known.add(number, losses)
        now = twin(given[:count])
        assert (left is not None) == (number in now)
        assert sorted(left or []) == sorted(before.keys() - now.keys())
        assert content(known) == now
        assert len(known) == len(now)
        before = now


@given(vectors())
@settings(deadline=None, max_examples=200)
def test_all_at_once_the_same_ones_stand_and_more_may_come(given: list[Vector]) -> None:
    half = math.ceil(len(given) / 2)
    known = NonDominated.of(*arrays(given[:half]))
    assert content(known) == twin(given[:half])
    for number, losses in given[half:]:
        known.add(number, losses)
    assert content(known) == twin(given)


@given(vectors(), st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_who_is_sifted_out_would_not_have_come_in(given: list[Vector], few: int) -> None:
    half = math.ceil(len(given) / 2)
    known = NonDominated.of(*arrays(given[:half]))
    rest = given[half:]
    if not rest:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dominance, "_FEW", few)
        outdone = known.outdone(*arrays(rest))
    lasting = twin(given[:half])
    for (number, losses), is_outdone in zip(rest, outdone.tolist(), strict=True):
        beaten_by = [
            n for n, x in lasting.items() if all(a <= b for a, b in zip(x, losses, strict=True))
        ]
        assert is_outdone == any(n < number for n in beaten_by)


def test_thousands_come_and_leave_in_the_order_of_arrival() -> None:
    line = [(n, [float(n), float(5000 - n)]) for n in range(5000)]
    known = NonDominated(2)
    for number, losses in line:
        assert known.add(number, losses) == []
    assert content(known) == dict(line)
    left = known.add(9000, [99.5, 10.0])  # as good as every one from 100 to 4990
    assert left == list(range(100, 4991))
    assert known.numbers.tolist() == [*range(100), *range(4991, 5000), 9000]
    assert known.add(9001, [4.5, 4990.0]) == [5, 6, 7, 8, 9, 10]


def beats(one: int, other: int, losses: np.ndarray, margins: np.ndarray) -> bool:
    limits = [math.hypot(*pair) for pair in zip(margins[one], margins[other], strict=True)]
    behind = (losses[one] - losses[other]).tolist()
    is_better = any(x < -limit for x, limit in zip(behind, limits, strict=True))
    return is_better and not any(x > limit for x, limit in zip(behind, limits, strict=True))


@pytest.mark.parametrize("cells", [1, 50, 2**22])
@pytest.mark.parametrize("seed", range(20))
def test_who_stands_does_not_depend_on_how_many_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch, cells: int, seed: int
) -> None:
    monkeypatch.setattr(dominance, "_CELLS", cells)
    rng = np.random.default_rng(seed)
    losses, margins = rng.uniform(size=(20, 3)), rng.uniform(0, 0.3, (20, 3))
    numbers = rng.permutation(100)[:20]
    # One at a time: whoever the fewest of the rest beat, the lowest number of several.
    rest, kept = list(range(20)), []
    while rest:
        rivals = [sum(beats(y, x, losses, margins) for y in rest) for x in rest]
        first = min(zip(rivals, numbers[rest].tolist(), rest, strict=True))[2]
        kept.append(first)
        rest = [x for x in rest if x != first and not beats(first, x, losses, margins)]
    assert standing(losses, margins, numbers).tolist() == sorted(kept)


def test_a_vector_is_compared_goal_by_goal() -> None:
    for better in itertools.product([0.0, 1.0], repeat=3):
        known = NonDominated(3)
        known.add(5, [0.5, 0.5, 0.5])
        left = known.add(6, better)
        assert left == {0.0: [5], 3.0: None}.get(sum(better), [])
