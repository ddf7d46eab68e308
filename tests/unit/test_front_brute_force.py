"""The front against a slow, obvious twin, and its hypervolume against counted cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.contracts.objective import Goal
from autoprune.front import Front
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

# Few distinct values, so that ties and duplicates are the rule.
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0])
ODD = st.sampled_from([float("nan"), float("inf"), float("-inf")])


def make_trial(
    number: int,
    values: Sequence[float],
    state: TrialState = TrialState.COMPLETED,
    is_broken: bool = False,
) -> Trial:
    measured = {f"o{index}": Measurement(value) for index, value in enumerate(values)}
    evaluation = Evaluation(measured, {"o0 <= 1": 0.5} if is_broken else {})
    return Trial(number, Policy(), "random", state=state, evaluation=evaluation)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Goal], list[Trial]]:
    """Draw goals, and trials in any order of arrival."""
    count = draw(st.integers(2, 4))
    goals = [Goal(f"o{i}", "", draw(st.sampled_from(["min", "max"])), 4.0) for i in range(count)]
    numbers = draw(st.permutations(range(draw(st.integers(0, 14)))))
    trials = []
    for number in numbers:
        fate = draw(st.integers(0, 9))
        values = draw(st.lists(VALUES, min_size=count, max_size=count))
        if fate == 0:
            values[draw(st.integers(0, count - 1))] = draw(ODD)
        state = TrialState.STOPPED if fate == 1 else TrialState.COMPLETED
        trials.append(make_trial(number, values, state, is_broken=fate == 2))
    return goals, trials


def losses(trial: Trial, goals: Sequence[Goal]) -> list[float]:
    assert trial.evaluation is not None
    return [goal.loss(trial.evaluation.value(goal.name)) for goal in goals]


def twin(goals: Sequence[Goal], trials: Sequence[Trial]) -> set[int]:
    """Compare every trial with every other one."""
    able = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETED
        and trial.evaluation is not None
        and not trial.evaluation.violations
        and all(math.isfinite(loss) for loss in losses(trial, goals))
    ]

    def beats(a: Trial, b: Trial) -> bool:
        one, other = losses(a, goals), losses(b, goals)
        if one == other:
            return a.number < b.number
        return all(x <= y for x, y in zip(one, other, strict=True))

    return {b.number for b in able if not any(beats(a, b) for a in able if a is not b)}


@given(problems())
@settings(deadline=None, max_examples=200)
def test_the_front_is_the_brute_force_front_after_every_trial(
    problem: tuple[list[Goal], list[Trial]],
) -> None:
    goals, trials = problem
    front = Front(goals)
    for count, trial in enumerate(trials, 1):
        stands = front.add(trial)
        expected = twin(goals, trials[:count])
        assert {member.number for member in front.members} == expected
        assert stands == (trial.number in expected)
    assert Front.of(trials, goals).members == front.members
    firsts = [losses(member, goals)[0] for member in front.members]
    assert firsts == sorted(firsts)


@given(problems())
@settings(deadline=None, max_examples=100)
def test_adding_everything_again_changes_nothing(
    problem: tuple[list[Goal], list[Trial]],
) -> None:
    goals, trials = problem
    front = Front.of(trials, goals)
    before = front.members
    for trial in trials:
        front.add(trial)
    assert front.members == before


@given(problems())
@settings(deadline=None, max_examples=100)
def test_hypervolume_is_the_share_of_dominated_cells(
    problem: tuple[list[Goal], list[Trial]],
) -> None:
    goals = [Goal(goal.name, "", "min", 4.0) for goal in problem[0]]
    front = Front(goals)
    cells = list(itertools.product(range(4), repeat=len(goals)))
    for trial in problem[1]:
        front.add(trial)
        points = [losses(member, goals) for member in front.members]
        # Values are whole, so a unit cell is dominated as a whole or not at all.
        filled = sum(
            any(all(x <= low for x, low in zip(point, cell, strict=True)) for point in points)
            for cell in cells
        )
        volume = front.hypervolume()
        assert volume is not None
        assert math.isclose(volume, filled / len(cells), abs_tol=1e-12)


@pytest.mark.parametrize("count", [6, 8, 10])
def test_hypervolume_of_many_goals_is_near_the_exact_one_and_never_shrinks(count: int) -> None:
    goals = [Goal(f"o{index}", "", "min", 1.0) for index in range(count)]
    points = np.random.default_rng(count).uniform(0.0, 0.6, (12, count))
    front, again, last = Front(goals), Front(goals), 0.0
    for number, point in enumerate(points):
        front.add(make_trial(number, point.tolist()))
        volume = front.hypervolume()
        assert volume is not None
        exact = moocore.hypervolume(points[: number + 1], ref=np.ones(count))
        assert volume == pytest.approx(exact, abs=0.003)
        assert volume >= last
        last = volume
    for number, point in reversed(list(enumerate(points))):
        again.add(make_trial(number, point.tolist()))
    assert again.hypervolume() == pytest.approx(last, abs=1e-12)
    front.add(make_trial(99, [0.0] * count))
    assert front.hypervolume() == pytest.approx(1.0, abs=0.003)
