"""What is said of criteria: spreads, differences and ranks, computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from autoprune.comparison.entry import Entry, Outcome
from autoprune.comparison.method import Method
from autoprune.comparison.verdict import Spread, difference, rows_of
from autoprune.trial import Failure, FailureKind
from tests.comparing import entry


def test_spreads_are_those_of_a_sample() -> None:
    assert Spread.of([0.25]) == Spread(0.25, None)
    spread = Spread.of([1.0, 2.0, 6.0])
    assert spread.mean == 3.0
    assert spread.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_one_seed_is_the_test_of_mcnemar() -> None:
    """Of 100 samples 12 only the first gets wrong, 4 only the second, 5 both."""
    first, second = np.zeros((1, 100), bool), np.zeros((1, 100), bool)
    first[0, :12] = True
    second[0, 12:16] = True
    first[0, 50:55] = second[0, 50:55] = True
    found = difference(first, second)
    assert found is not None
    assert found.value == pytest.approx(0.08)
    variance = (16 / 100 - 0.08**2) * 100 / 99
    half = 1.959964 * math.sqrt(variance / 100) + 0.01
    assert (found.low, found.high) == pytest.approx((0.08 - half, 0.08 + half))
    assert not found.is_worse  # (|12 - 4| - 1) / √16 = 1.75
    first[0, 20:30] = True  # now 22 against 4: 3.3
    more, turned = difference(first, second), difference(second, first)
    assert more is not None
    assert more.is_worse
    assert turned is not None
    assert turned.is_better


def test_seeds_that_differ_widen_the_interval() -> None:
    """Two seeds: all of 10 samples wrong, or none; Student's t with one degree is 12.7."""
    first = np.array([[True] * 10, [False] * 10])
    found = difference(first, np.zeros((2, 10), bool))
    assert found is not None
    assert found.value == 0.5
    half = 12.706205 * math.sqrt(0.5) / math.sqrt(2) + 0.1
    assert found.high - found.value == pytest.approx(half)


def test_equal_networks_are_not_told_apart_and_one_sample_tells_nothing() -> None:
    wrong = np.random.default_rng(0).random((3, 50)) < 0.3
    found = difference(wrong, wrong)
    assert found is not None
    assert (found.value, found.is_worse, found.is_better) == (0.0, False, False)
    assert difference(wrong[:, :1], ~wrong[:, :1]) is None


def test_rows_are_ranked_and_in_one_order() -> None:
    failed = Outcome(failure=Failure(FailureKind.NONFINITE, "loss is nan"))
    given = [
        *(entry("good", 0.3, seed, 0.1, []) for seed in (0, 1)),
        *(entry("twin", 0.3, seed, 0.1, []) for seed in (0, 1)),
        entry("half", 0.3, 0, 0.2, list(range(30))),
        Entry(Method("half"), 0.3, 1, failed),
        *(Entry(Method("broken"), 0.3, seed, failed) for seed in (0, 1)),
        *(entry("random", 0.3, seed, 0.4, list(range(20))) for seed in (0, 1)),
        *(entry("half", 0.6, seed, 0.05, []) for seed in (0, 1)),
        *(entry("good", 0.6, seed, 0.06, []) for seed in (0, 1)),
    ]
    entries = {each.key: each for each in given}
    methods = [Method(each) for each in ("broken", "random", "half", "twin", "good")]
    rows = rows_of(entries, methods, (0.6, 0.3), (0, 1))
    assert [row.share for row in rows] == [0.3] * 5 + [0.6] * 5
    order = [row.method.criterion for row in rows[:5]]
    assert order == [row.method.criterion for row in rows[5:]]
    assert order == ["good", "twin", "half", "random", "broken"]
    assert [row.rank for row in rows[:5]] == [1, 1, 2, 3, None]
    good, twin, half, random, broken = rows[:5]
    assert good.is_best
    assert good.from_best is twin.from_best is random.from_random is broken.from_best is None
    assert good.from_random is not None
    assert good.from_random.is_better
    assert random.from_best is not None
    assert random.from_best.is_worse
    assert half.from_best is not None
    assert half.from_best.value == pytest.approx(0.75)  # over the seed that both have
    assert half.errors["search"] == Spread(0.2, None)
    assert good.others == {"loss": Spread(2.5, pytest.approx(math.sqrt(0.5)))}
    assert len(half.failures) == 1
    assert [row.rank for row in rows[5:]] == [2, None, 1, None, None]
    json.dumps([row.to_json() for row in rows], allow_nan=False)


def test_the_yardstick_is_random_choice_with_the_same_recovery() -> None:
    given = [
        entry("l1", 0.3, 0, 0.1, [1], "rigl"),
        entry("random", 0.3, 0, 0.2, [*range(20)], "rigl"),
        entry("l1", 0.3, 0, 0.1, [*range(20)], "finetune"),
        entry("random", 0.3, 0, 0.3, [1], "finetune"),
    ]
    entries = {each.key: each for each in given}
    rows = rows_of(entries, [each.method for each in given], (0.3,), (0,))
    told = {str(row.method): row.from_random for row in rows}
    assert told["random with rigl"] is told["random with finetune"] is None
    better, worse = told["l1 with rigl"], told["l1 with finetune"]
    assert better is not None
    assert worse is not None
    assert (better.is_better, better.is_worse) == (True, False)
    assert (worse.is_better, worse.is_worse) == (False, True)
    assert [row.rank for row in rows] == [1, 1, 2, 3]
    assert [row.to_json()["recovery"] for row in rows] == ["rigl", "finetune", "rigl", "finetune"]
