"""A front that respects intervals: by hand, and against a slow, obvious twin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.contracts.objective import Goal
from autoprune.errors import InputError
from autoprune.front import Front
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

# A value and half of its 95 % interval; 0.0 for a value without an interval.
Point = tuple[float, float]
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0])
# Few, so that trials beat each other in circles; no two make a margin of a whole number.
HALVES = st.sampled_from([0.0, 0.7, 1.3, 2.1])


def goals(count: int) -> list[Goal]:
    return [Goal(f"o{index}", "", "min", 5.0) for index in range(count)]


def evaluation(points: Sequence[Point]) -> Evaluation:
    return Evaluation(
        {
            f"o{index}": Measurement(x, x - half, x + half) if half else Measurement(x)
            for index, (x, half) in enumerate(points)
        }
    )


def make_trial(number: int, points: Sequence[Point]) -> Trial:
    state = TrialState.COMPLETED
    return Trial(number, Policy(), "tpe", state=state, evaluation=evaluation(points))


def members(front: Front) -> list[int]:
    return [member.number for member in front.members]


def beats(one: Trial, other: Trial, z: float) -> bool:
    """Compare two trials, goal by goal."""
    assert one.evaluation is not None
    assert other.evaluation is not None
    is_better = False
    for name, a in one.evaluation.measurements.items():
        b = other.evaluation.measurements[name]
        errors = [((x.high or 0.0) - (x.low or 0.0)) / (2 * 1.959964) for x in (a, b)]
        if abs(a.value - b.value) > z * math.hypot(*errors):
            if a.value > b.value:
                return False
            is_better = True
    return is_better


def twin(plain: Sequence[Trial], z: float) -> tuple[list[int], bool]:
    """Keep one at a time; return who is kept, and whether some went round in a circle."""
    rest, kept, is_circular = list(plain), [], False
    while rest:
        rivals = [(sum(beats(y, x, z) for y in rest), x.number) for x in rest]
        count, number = min(rivals)
        is_circular |= count > 0
        (first,) = (x for x in rest if x.number == number)
        kept.append(number)
        rest = [x for x in rest if x is not first and not beats(first, x, z)]
    return sorted(kept), is_circular


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, list[Trial]]:
    """Draw the number of goals, and trials in any order of arrival."""
    count = draw(st.integers(2, 4))
    points = st.lists(st.tuples(VALUES, HALVES), min_size=count, max_size=count)
    numbers = draw(st.permutations(range(draw(st.integers(0, 12)))))
    return count, [make_trial(number, draw(points)) for number in numbers]


@given(problems(), st.sampled_from([(0.05, 1.959964), (0.3, 1.036433)]))
@settings(deadline=None, max_examples=300)
def test_the_front_is_the_one_that_comparing_all_pairs_gives(
    problem: tuple[int, list[Trial]], level: tuple[float, float]
) -> None:
    (count, trials), (significance, z) = problem, level
    front, plain = Front(goals(count), significance=significance), Front(goals(count))
    for trial in trials:
        assert front.add(trial) == plain.add(trial)
        kept, is_circular = twin(plain.members, z)
        assert sorted(members(front)) == kept
        assert front.hypervolume() == plain.hypervolume()
    if trials:
        standing = front.members
        for trial in plain.members:
            is_left_out = trial.number not in kept
            if is_left_out or not is_circular:
                assert any(beats(member, trial, z) for member in standing) == is_left_out
    again = Front.of(reversed(trials), goals(count), significance=significance)
    assert members(again) == members(front)


@given(problems())
@settings(deadline=None, max_examples=100)
def test_without_intervals_significance_changes_nothing(problem: tuple[int, list[Trial]]) -> None:
    count, trials = problem
    exact = []
    for trial in trials:
        assert trial.evaluation is not None
        values = [(x.value, 0.0) for x in trial.evaluation.measurements.values()]
        exact.append(make_trial(trial.number, values))
    front = Front.of(exact, goals(count), significance=0.05)
    assert members(front) == members(Front.of(exact, goals(count)))


def test_more_macs_for_no_error_to_speak_of_do_not_stand() -> None:
    # 0.001 apart where 1.96 standard errors are 0.018; 0.05 is significantly less.
    points = [(0.100, 1.0), (0.099, 1.5), (0.050, 2.0)]
    trials = [
        make_trial(n, [(error, 0.013), (macs, 0.0)]) for n, (error, macs) in enumerate(points)
    ]
    assert members(Front.of(trials, goals(2))) == [2, 1, 0]
    assert members(Front.of(trials, goals(2), significance=0.05)) == [2, 0]


def test_how_far_apart_is_significant() -> None:
    # Halves of 0.03 and 0.04 make a margin of 0.05 at 5 %, and of 0.05 · 2.5758 / 1.9600 at 1 %.
    def count(distance: float, significance: float) -> int:
        trials = [
            make_trial(0, [(0.2 + distance, 0.03), (1.0, 0.0)]),
            make_trial(1, [(0.2, 0.04), (2.0, 0.0)]),
        ]
        return len(members(Front.of(trials, goals(2), significance=significance)))

    assert [count(0.0499, 0.05), count(0.0501, 0.05)] == [1, 2]
    assert [count(0.0656, 0.01), count(0.0658, 0.01)] == [1, 2]


def test_a_chain_of_small_steps_keeps_every_other_one() -> None:
    # Each beats the next dearer one, and is significantly worse than the one after that.
    trials = [make_trial(n, [(0.5 - 0.1 * n, 0.1), (float(n), 0.0)]) for n in range(5)]
    assert members(Front.of(trials, goals(2), significance=0.05)) == [4, 2, 0]


def test_of_a_circle_the_lowest_number_is_the_first_member() -> None:
    # The margin is 1.06 · √2 = 1.5: 0 beats 1 by the first goal, 1 beats 2, 2 beats 0.
    circle = [(0.0, 1.0, 2.0), (2.0, 0.0, 1.0), (1.0, 2.0, 0.0)]
    trials = [make_trial(n, [(x, 1.06) for x in values]) for n, values in enumerate(circle)]
    assert sorted(members(Front.of(trials, goals(3), significance=0.05))) == [0, 2]


def test_a_later_member_changes_who_stands() -> None:
    front = Front(goals(2), significance=0.05)
    front.add(make_trial(0, [(0.099, 0.013), (1.5, 0.0)]))
    assert members(front) == [0]
    front.add(make_trial(1, [(0.100, 0.013), (1.0, 0.0)]))
    assert members(front) == [1]
    assert front.best("o0").number == front.knee().number == 1
    # Equal to a member that is known, but with the lower number and a narrow interval.
    front = Front.of([make_trial(3, [(0.2, 0.3), (1.0, 0.0)])], goals(2), significance=0.05)
    front.add(make_trial(4, [(0.1, 0.001), (2.0, 0.0)]))
    assert members(front) == [3]
    front.add(make_trial(1, [(0.2, 0.001), (1.0, 0.0)]))
    assert members(front) == [4, 1]


def test_on_the_report_split_its_own_intervals_count() -> None:
    def trial(number: int, error: float, macs: float) -> Trial:
        searched, reported = ([(error, half), (macs, 0.0)] for half in (0.2, 0.001))
        return Trial(
            number,
            Policy(),
            "tpe",
            state=TrialState.COMPLETED,
            evaluation=evaluation(searched),
            report=evaluation(reported),
        )

    trials = [trial(0, 0.2, 1.0), trial(1, 0.1, 2.0)]
    assert members(Front.of(trials, goals(2), significance=0.05)) == [0]
    front = Front.of(trials, goals(2), use_report=True, significance=0.05)
    assert members(front) == [1, 0]


@pytest.mark.parametrize("given", [0.0, 1.0, -0.1, float("nan")])
def test_significance_is_a_probability(given: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Front(goals(2), significance=given)
