"""Objectives by groups: by hand, against slow twins, and against fairlearn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.contracts.objective import Grouping, Objective, Predictions, Subject
from autoprune.errors import InputError
from autoprune.graph.cost import Costs
from autoprune.objectives.accuracy_gap import AccuracyGap
from autoprune.objectives.demographic_parity import DemographicParity
from autoprune.objectives.equalized_odds import EqualizedOdds
from autoprune.objectives.prune_disparity import PruneDisparity
from autoprune.objectives.worst_group_error import WorstGroupError
from autoprune.testing import ObjectiveContract

COSTS = Costs(1, 1, 1)
ALL = (WorstGroupError, AccuracyGap, EqualizedOdds, DemographicParity, PruneDisparity)


def grouping(title: str, codes: list[int], count: int = 0) -> Grouping:
    """Groups called `title=0`, `title=1`, ..."""
    names = tuple(f"{title}={each}" for each in range(count or max(codes) + 1))
    return Grouping(title, names, torch.tensor(codes))


def subject(
    predicted: list[int],
    labels: list[int],
    *groupings: Grouping,
    classes: int = 2,
    dense: Subject | None = None,
) -> Subject:
    logits = 5.0 * nn.functional.one_hot(torch.tensor(predicted), classes).float()
    return Subject(COSTS, Predictions(logits, torch.tensor(labels), groupings), dense=dense)


def errors(*groups: tuple[int, int], title: str = "g", dense: Subject | None = None) -> Subject:
    """Groups given as (samples, wrong); every label is 0, of 4 classes."""
    predicted = [int(place < wrong) for size, wrong in groups for place in range(size)]
    codes = [code for code, (size, _) in enumerate(groups) for _ in range(size)]
    return subject(
        predicted,
        [0] * len(predicted),
        grouping(title, codes, len(groups)),
        classes=4,
        dense=dense,
    )


def rates(*groups: tuple[int, int, int, int]) -> Subject:
    """Groups given as (positives, of them found, negatives, of them taken for positives)."""
    predicted, labels, codes = [], [], []
    for code, (positives, found, negatives, mistaken) in enumerate(groups):
        labels += [1] * positives + [0] * negatives
        predicted += [int(each < found) for each in range(positives)]
        predicted += [int(each < mistaken) for each in range(negatives)]
        codes += [code] * (positives + negatives)
    return subject(predicted, labels, grouping("sex", codes))


class TestWorstGroupError(ObjectiveContract):
    def make(self) -> Objective:
        return WorstGroupError()

    def better(self) -> Subject:
        return errors((50, 5), (50, 5))

    def worse(self) -> Subject:
        return errors((80, 2), (20, 8))  # the same error overall


class TestAccuracyGap(TestWorstGroupError):
    def make(self) -> Objective:
        return AccuracyGap()


class TestPruneDisparity(ObjectiveContract):
    def make(self) -> Objective:
        return PruneDisparity()

    def better(self) -> Subject:
        return errors((50, 10), (50, 11), dense=errors((50, 5), (50, 5)))

    def worse(self) -> Subject:
        return errors((50, 5), (50, 16), dense=errors((50, 5), (50, 5)))


class TestEqualizedOdds(ObjectiveContract):
    num_classes = 2

    def make(self) -> Objective:
        return EqualizedOdds()

    def better(self) -> Subject:
        return rates((40, 30, 60, 10), (40, 28, 60, 12))

    def worse(self) -> Subject:
        return rates((40, 38, 60, 10), (40, 20, 60, 12))


class TestDemographicParity(TestEqualizedOdds):
    def make(self) -> Objective:
        return DemographicParity()


def test_the_worst_group_and_its_wilson_interval_by_hand() -> None:
    measured = WorstGroupError().measure(errors((100, 10), (50, 10), (5, 5)))
    assert measured.value == pytest.approx(0.2)
    # Wilson 95 % for 10 of 50 is [0.1124, 0.3304] (textbook value).
    assert measured.low == pytest.approx(0.1124, abs=1e-4)
    assert measured.high == pytest.approx(0.3304, abs=1e-4)
    assert {name: each.value for name, each in measured.parts.items()} == {
        "g=0": pytest.approx(0.1),
        "g=1": pytest.approx(0.2),
        "g=2": 1.0,
    }
    assert measured.note == "too small to judge: g=2 (5)"


def test_partitions_are_judged_together() -> None:
    first, second = grouping("a", [0] * 30 + [1] * 30), grouping("b", [0, 1] * 30)
    # Wrong are ten of b=1, five of them in each of a's groups.
    wrong = [0, 1] * 5 + [0] * 20 + [0, 1] * 5 + [0] * 20
    measured = WorstGroupError().measure(subject(wrong, [0] * 60, first, second))
    assert measured.value == pytest.approx(1 / 3)
    assert list(measured.parts) == ["a=0", "a=1", "b=0", "b=1"]
    gap = AccuracyGap().measure(subject(wrong, [0] * 60, first, second))
    assert gap.value == pytest.approx(1 / 3)


def test_a_gap_is_within_one_grouping() -> None:
    # Within a: 0.4 and 0.5; within b: 0.4 and 0.5. Between: nothing wider, whatever is joined.
    first, second = grouping("a", [0] * 50 + [1] * 50), grouping("b", [2] * 50 + [3] * 50)
    wrong = [1] * 20 + [0] * 30 + [1] * 25 + [0] * 25
    measured = AccuracyGap().measure(subject(wrong, [0] * 100, first, second))
    assert measured.value == pytest.approx(0.1)
    one = Grouping("all", ("all",), torch.zeros(100, dtype=torch.int64))
    perfect = errors((50, 0), (50, 0))
    assert perfect.predictions is not None
    beside = subject([0] * 100, [0] * 100, one, *perfect.predictions.groupings)
    assert AccuracyGap().measure(beside).value == 0.0


def test_a_gap_and_its_newcombe_interval_by_hand() -> None:
    measured = AccuracyGap().measure(errors((80, 48), (70, 56)))
    assert measured.value == pytest.approx(0.2)
    # Newcombe 1998, table II, 56/70 against 48/80, method 10.
    assert measured.low == pytest.approx(0.0524, abs=1e-4)
    assert measured.high == pytest.approx(0.3339, abs=1e-4)


def test_equalized_odds_by_hand() -> None:
    # True positive rates 0.75 and 0.5; false positive rates 0.1 and 0.4.
    measured = EqualizedOdds().measure(rates((40, 30, 50, 5), (20, 10, 50, 20)))
    assert measured.value == pytest.approx(0.3)
    assert {name: each.value for name, each in measured.parts.items()} == {
        "sex=0: false positive rate of class 1": pytest.approx(0.1),
        "sex=1: false positive rate of class 1": pytest.approx(0.4),
    }
    assert measured.note == ""


def test_demographic_parity_by_hand() -> None:
    # Selected: 35 of 90, and 30 of 70.
    measured = DemographicParity().measure(rates((40, 30, 50, 5), (20, 10, 50, 20)))
    assert measured.value == pytest.approx(30 / 70 - 35 / 90)
    assert list(measured.parts) == [
        "sex=0: selection rate of class 1",
        "sex=1: selection rate of class 1",
    ]


def test_a_rate_that_is_not_defined_is_named_and_not_judged() -> None:
    # Nobody of the first group is positive: only false positive rates can be compared.
    measured = EqualizedOdds().measure(rates((0, 0, 50, 5), (40, 10, 50, 10)))
    assert measured.value == pytest.approx(0.1)
    assert measured.note == "too small to judge: sex=0: true positive rate of class 1 (0)"
    assert len(measured.parts) == 2


def test_a_rate_of_a_few_is_not_judged() -> None:
    given = rates((3, 0, 50, 5), (40, 40, 50, 10))
    assert EqualizedOdds().measure(given).value == pytest.approx(0.1)
    assert EqualizedOdds(smallest=3).measure(given).value == 1.0


def test_many_small_groups_make_a_short_note() -> None:
    measured = WorstGroupError().measure(errors((40, 10), *[(2, 1)] * 6))
    assert measured.note == "too small to judge: g=1 (2), g=2 (2), g=3 (2) and 3 more"
    assert len(measured.parts) == 7


def test_a_group_of_the_smallest_size_is_judged() -> None:
    measured = WorstGroupError().measure(errors((20, 10), (40, 4)))
    assert measured.value == 0.5
    assert measured.note == ""


def test_a_group_without_samples_has_no_error() -> None:
    measured = WorstGroupError().measure(errors((40, 10), (0, 0)))
    assert measured.note == "too small to judge: g=1 (0)"
    assert list(measured.parts) == ["g=0"]


@pytest.mark.parametrize("kind", ALL)
def test_nothing_large_enough_is_refused(kind: type[Objective]) -> None:
    small = errors((19, 3), (19, 4), dense=errors((19, 3), (19, 4)))
    with pytest.raises(
        InputError, match=rf"{kind.name} needs .* 20 samples; .*g=0 \(19\).*; measure"
    ):
        kind().measure(small)


@pytest.mark.parametrize("kind", [AccuracyGap, DemographicParity, PruneDisparity])
def test_one_group_cannot_be_compared(kind: type[Objective]) -> None:
    given = errors((50, 3), (19, 4), dense=errors((50, 3), (19, 4)))
    with pytest.raises(InputError, match="needs two groups"):
        kind().measure(given)
    assert WorstGroupError().measure(given).value == pytest.approx(0.06)


@pytest.mark.parametrize("kind", [EqualizedOdds, DemographicParity])
def test_parity_asks_for_groups_other_than_the_classes(kind: type[Objective]) -> None:
    assert kind.needs_groups
    labels = [0, 1] * 60
    classes, both = grouping("class", labels), grouping("class & sex", labels)
    with pytest.raises(InputError, match=r"other than the classes.*class & sex.*data\.groups"):
        kind().measure(subject(labels, labels, classes, both))
    sex = grouping("sex", [0] * 60 + [1] * 60)
    assert kind().measure(subject(labels, labels, classes, sex)).value == 0.0


@pytest.mark.parametrize("kind", ALL)
def test_no_groups_at_all_are_refused(kind: type[Objective]) -> None:
    bare = subject([0, 1], [0, 1], dense=subject([0, 1], [0, 1]))
    with pytest.raises(InputError, match=r"given: none.*data\.groups"):
        kind().measure(bare)


@pytest.mark.parametrize("kind", ALL)
def test_smallest_must_be_positive(kind: type[Objective]) -> None:
    with pytest.raises(ValueError, match="at least 1, given 0"):
        kind(smallest=0)  # type: ignore[call-arg]
    assert kind().reference(0.02, 10) == pytest.approx(0.9)


def test_disparity_by_hand() -> None:
    dense = errors((60, 6), (40, 4))
    measured = PruneDisparity().measure(errors((60, 6), (40, 14), dense=dense))
    # The second group lost 10 of 40, everybody 10 of 100.
    assert measured.value == pytest.approx(0.25 - 0.1)
    changes = measured.parts
    assert [changes["g=0"].value, changes["g=1"].value] == [0.0, 0.25]
    # Of 40 samples 10 changed by 1: variance 40/39 * (0.25 - 0.0625).
    half = 1.959964 * math.sqrt(0.1875 / 39)
    assert changes["g=1"].low == pytest.approx(0.25 - half)
    # The first group did not change at all: 0.6 of the second's deviation is left.
    assert measured.high == pytest.approx(0.15 + 0.6 * half)


def test_the_dense_network_has_no_disparity() -> None:
    dense = errors((60, 6), (40, 14))
    measured = PruneDisparity().measure(errors((60, 6), (40, 14), dense=dense))
    assert (measured.value, measured.low, measured.high) == (0.0, 0.0, 0.0)


def test_everybody_as_a_group_loses_as_much_as_everybody() -> None:
    one = Grouping("all", ("all",), torch.zeros(100, dtype=torch.int64))
    halves = grouping("g", [0] * 50 + [1] * 50)
    lost = [1] * 10 + [0] * 90
    dense = subject([0] * 100, [0] * 100, one, halves)
    assert PruneDisparity().measure(
        subject(lost, [0] * 100, one, halves, dense=dense)
    ).value == pytest.approx(0.1)
    swapped = subject(lost, [0] * 100, one, one, dense=dense)
    assert PruneDisparity().measure(swapped).value == 0.0


def test_who_was_mended_counts_against_who_was_broken() -> None:
    # One group swaps 10 wrong samples for 10 others: its error is unchanged, its interval is not.
    codes = [0] * 40 + [1] * 40
    before = [1] * 10 + [0] * 70
    after = [0] * 10 + [1] * 10 + [0] * 60
    dense = subject(before, [0] * 80, grouping("g", codes))
    measured = PruneDisparity().measure(subject(after, [0] * 80, grouping("g", codes), dense=dense))
    assert measured.value == 0.0
    assert measured.parts["g=0"].value == 0.0
    assert measured.parts["g=0"].high == pytest.approx(1.959964 * math.sqrt(20 / 39 / 40))


def test_one_sample_has_a_change_but_no_interval_of_it() -> None:
    dense = errors((30, 3), (1, 0), (30, 3))
    measured = PruneDisparity().measure(errors((30, 3), (1, 1), (30, 3), dense=dense))
    assert measured.parts["g=1"].value == 1.0
    assert measured.parts["g=1"].low is None
    lone = PruneDisparity(smallest=1).measure(errors((30, 3), (1, 1), (30, 3), dense=dense))
    assert lone.value == pytest.approx(1 - 1 / 61)
    assert lone.low is None


Sample = tuple[int, int, int, int, int]  # label, prediction, dense prediction, two groups


def samples(classes: int) -> st.SearchStrategy[list[Sample]]:
    named = st.integers(0, classes - 1)
    some = st.lists(
        st.tuples(named, named, named, st.integers(0, 2), st.integers(0, 1)), max_size=60
    )
    # Every label occurs at least twice in every group, so that every rate is defined.
    always = [(x, 0, 0, a, b) for x in range(classes) for a in range(3) for b in range(2)] * 2
    return some.map(lambda rows: rows + always)


def built(rows: list[Sample], classes: int) -> Subject:
    labels, predicted, before, first, second = (list(each) for each in zip(*rows, strict=True))
    groupings = grouping("a", first, 3), grouping("b", second, 2)
    dense = subject(before, labels, *groupings, classes=classes)
    return subject(predicted, labels, *groupings, classes=classes, dense=dense)


@settings(max_examples=60, deadline=None)
@given(samples(3))
def test_errors_and_changes_equal_their_slow_twins(rows: list[Sample]) -> None:
    given_subject = built(rows, 3)
    table = np.array(rows)
    wrong = (table[:, 1] != table[:, 0]).astype(float)
    change = wrong - (table[:, 2] != table[:, 0])
    by_grouping = [
        [table[:, column] == code for code in range(count)] for column, count in ((3, 3), (4, 2))
    ]
    members = [each for group in by_grouping for each in group]
    assert WorstGroupError(smallest=1).measure(given_subject).value == pytest.approx(
        max(wrong[each].mean() for each in members)
    )
    gaps = [np.ptp([wrong[each].mean() for each in group]) for group in by_grouping]
    assert AccuracyGap(smallest=1).measure(given_subject).value == pytest.approx(max(gaps))
    measured = PruneDisparity(smallest=1).measure(given_subject)
    excess = [change[each].mean() - change.mean() for each in members]
    assert measured.value == pytest.approx(max(excess), abs=1e-12)
    deviations = [_deviation(change, each) for each in members]
    assert measured.high is not None
    assert any(
        measured.high == pytest.approx(value + 1.959964 * deviation)
        for value, deviation in zip(excess, deviations, strict=True)
        if value == pytest.approx(max(excess), abs=1e-12)
    )


def _deviation(change: np.ndarray, group: np.ndarray) -> float:
    """Standard error of sum(weight * change), one variance inside the group, one outside."""
    weights = group / group.sum() - 1 / len(group)
    spread = np.where(group, change[group].var(ddof=1), change[~group].var(ddof=1))
    return float(np.sqrt((weights**2 * spread).sum()))


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 3).flatmap(lambda n: st.tuples(st.just(n), samples(n))))
def test_parity_equals_fairlearn(given_rows: tuple[int, list[Sample]]) -> None:
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    classes, rows = given_rows
    table = np.array(rows)
    given_subject = built(rows, classes)
    for objective, theirs in (
        (EqualizedOdds(smallest=1), equalized_odds_difference),
        (DemographicParity(smallest=1), demographic_parity_difference),
    ):
        # Of two classes, fairlearn takes the second for the positive one.
        judged = [1] if classes == 2 else range(classes)
        expected = max(
            theirs(
                (table[:, 0] == each).astype(int),
                (table[:, 1] == each).astype(int),
                sensitive_features=table[:, column],
            )
            for each in judged
            for column in (3, 4)
        )
        assert objective.measure(given_subject).value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(samples(3), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(rows: list[Sample], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for kind in ALL:
        objective = kind(smallest=2)
        assert objective.measure(built(rows, 3)) == objective.measure(built(shuffled, 3))
