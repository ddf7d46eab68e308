"""The front on cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import moocore
import pytest

from autoprune.contracts.objective import Goal
from autoprune.errors import InputError
from autoprune.front import Front
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

ERROR = Goal("error", "", "min", 0.5)
MACS = Goal("macs", "MAC", "min", 10e6)
SPEED = Goal("speed", "1/s", "max", 100.0)


def measured(values: Mapping[str, float]) -> Evaluation:
    return Evaluation({name: Measurement(value) for name, value in values.items()})


def make_trial(number: int, error: float, macs: float, **more: float) -> Trial:
    evaluation = measured({"error": error, "macs": macs, **more})
    return Trial(number, Policy(), "tpe", state=TrialState.COMPLETED, evaluation=evaluation)


def front_of(points: Sequence[tuple[float, float]]) -> Front:
    return Front.of((make_trial(i, *point) for i, point in enumerate(points)), [ERROR, MACS])


# Scaled to [0, 1]: (0, 1), (.2, .3), (.5, .2), (1, 0); sums 1, .5, .7, 1.
CONVEX = [(0.0, 10e6), (0.1, 3e6), (0.25, 2e6), (0.5, 0.0)]


def test_hypervolume_by_hand() -> None:
    # Scaled by the references: (.2, .5) fills .8 * .5 = .4; (.6, .1) adds .4 * .4 = .16.
    assert front_of([(0.1, 5e6), (0.3, 1e6)]).hypervolume() == pytest.approx(0.56)


def test_hypervolume_runs_from_nothing_to_the_whole_box() -> None:
    assert front_of([]).hypervolume() == 0.0
    assert front_of([(0.5, 10e6)]).hypervolume() == 0.0
    assert front_of([(0.0, 0.0)]).hypervolume() == pytest.approx(1.0)


def test_a_member_beyond_the_reference_counts_nothing() -> None:
    beyond = front_of([(0.1, 5e6), (0.0, 11e6), (0.6, 0.0)])
    assert len(beyond.members) == 3
    assert beyond.hypervolume() == pytest.approx(0.8 * 0.5)


def test_hypervolume_with_a_goal_to_maximise() -> None:
    # Reference 100: at 100 nothing is won, at 150 half of the side, from 200 on all of it.
    shares = []
    for speed in (100.0, 150.0, 200.0, 900.0):
        front = Front([ERROR, SPEED])
        front.add(make_trial(0, 0.25, 1.0, speed=speed))
        shares.append(front.hypervolume())
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.5])


def test_hypervolume_of_one_goal() -> None:
    front = Front.of([make_trial(0, 0.4, 1.0), make_trial(1, 0.1, 2.0)], [ERROR])
    assert [member.number for member in front.members] == [1]
    assert front.hypervolume() == pytest.approx(0.8)


def test_without_a_reference_there_is_no_hypervolume() -> None:
    front = Front([ERROR, Goal("macs", "MAC", "min")])
    front.add(make_trial(0, 0.1, 1.0))
    assert front.hypervolume() is None
    assert front.reference_point == (0.5, None)


def test_hypervolume_is_computed_once_per_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    real = moocore.hypervolume

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(moocore, "hypervolume", counted)
    front = front_of([(0.1, 5e6)])
    first = front.hypervolume()
    assert (front.hypervolume(), len(calls)) == (first, 1)
    front.add(make_trial(8, 0.2, 6e6))  # dominated: nothing changes
    assert (front.hypervolume(), len(calls)) == (first, 1)
    front.add(make_trial(9, 0.05, 2e6))
    assert front.hypervolume() == pytest.approx(0.9 * 0.8)
    assert len(calls) == 2


def test_members_are_sorted_by_the_first_goal_best_first() -> None:
    shuffled = front_of([CONVEX[i] for i in (2, 0, 3, 1)])
    assert [member.number for member in shuffled.members] == [1, 3, 0, 2]
    fastest = Front.of(
        [make_trial(0, 0.1, 1.0, speed=5.0), make_trial(1, 0.2, 1.0, speed=9.0)], [SPEED, ERROR]
    )
    assert [member.number for member in fastest.members] == [1, 0]


def test_the_earlier_of_two_equal_trials_stays_whatever_the_order() -> None:
    for order in ([3, 7], [7, 3]):
        front = Front([ERROR, MACS])
        for number in order:
            front.add(make_trial(number, 0.1, 5.0))
        assert [member.number for member in front.members] == [3]


def test_the_knee_by_hand() -> None:
    assert front_of(CONVEX).knee().number == 1


def test_the_knee_does_not_depend_on_units() -> None:
    thousandth = front_of([(error, macs / 1000.0) for error, macs in CONVEX])
    assert thousandth.knee().number == 1


def test_the_knee_of_one_member_is_that_member() -> None:
    assert front_of([(0.3, 4e6)]).knee().number == 0


def test_on_a_front_that_bulges_outwards_the_knee_is_an_end() -> None:
    # Scaled: (0, 1), (.6, .9), (1, 0); both ends have the sum 1, the lower number wins.
    assert front_of([(0.0, 10e6), (0.3, 9e6), (0.5, 0.0)]).knee().number == 0


def test_best_and_weighted_by_hand() -> None:
    front = front_of(CONVEX)
    assert front.best("error").number == 0
    assert front.best("macs").number == 3
    # Sums for 1:4 are 4, 1.4, 1.3, 1.
    assert front.weighted({"error": 1.0, "macs": 4.0}).number == 3
    # Sums for 1:2 are 2, .8, .9, 1.
    assert front.weighted({"error": 1.0, "macs": 2.0}).number == 1
    assert front.weighted({"macs": 1.0}).number == 3


def test_a_goal_that_all_members_share_does_not_disturb_the_pick() -> None:
    goals = [ERROR, MACS, SPEED]
    trials = [make_trial(i, *point, speed=50.0) for i, point in enumerate(CONVEX)]
    assert Front.of(trials, goals).knee().number == 1


def test_picks_are_members_that_keep_soft_constraints_where_there_are_any() -> None:
    def front(missing: set[int]) -> Front:
        trials = []
        for number, point in enumerate(CONVEX):
            misses = {"macs <= 1": 0.3} if number in missing else {}
            evaluation = replace(
                measured(dict(zip(("error", "macs"), point, strict=True))), misses=misses
            )
            trials.append(replace(make_trial(number, *point), evaluation=evaluation))
        return Front.of(trials, [ERROR, MACS])

    some = front({0, 1})
    assert len(some.members) == 4
    assert some.best("error").number == 2
    # Scaled over the two that keep it, (0, 1) and (1, 0): the lower number of equal sums.
    assert some.knee().number == 2
    assert some.weighted({"error": 1.0, "macs": 2.0}).number == 3
    assert front({0, 1, 2, 3}).knee().number == 1


def test_an_unknown_goal_is_named_with_the_known_ones() -> None:
    front = front_of(CONVEX)
    with pytest.raises(InputError, match="did you mean 'macs'"):
        front.best("mac")
    with pytest.raises(InputError, match="allowed: error, macs"):
        front.weighted({"speed": 1.0})


def test_the_report_split_has_a_front_of_its_own() -> None:
    def trial(number: int, searched: float, reported: float | None) -> Trial:
        report = None if reported is None else measured({"error": reported})
        return Trial(
            number,
            Policy(),
            "tpe",
            state=TrialState.COMPLETED,
            evaluation=measured({"error": searched}),
            report=report,
        )

    trials = [trial(0, 0.1, 0.4), trial(1, 0.2, 0.3), trial(2, 0.05, None)]
    assert [x.number for x in Front.of(trials, [ERROR]).members] == [2]
    assert [x.number for x in Front.of(trials, [ERROR], use_report=True).members] == [1]
