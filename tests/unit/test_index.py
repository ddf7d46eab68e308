"""The index of a log against a run that replays the log anew for every question."""

from __future__ import annotations

import itertools
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.contracts.store import Entry, Event, EventKind
from autoprune.errors import InputError, RunError, StoreError
from autoprune.index import timeline
from autoprune.index.job_index import JobIndex
from autoprune.index.lives import TrialOutline
from autoprune.index.trials import trial_from, trials_from
from autoprune.job.spec import Job
from autoprune.store import entries
from autoprune.store.history import History
from autoprune.store.sql import SqlStore
from autoprune.trial import Evaluation, Measurement, Trial, TrialState, shown
from autoprune.trial_json import dominators
from tests.indexing import POLICIES, Replayed, indexed, logs, make_job, outline, thousands
from tests.searching import small_job, small_search
from tests.unit.test_history_fold import logged

PICKS: list[dict[str, float]] = [{"error": 1.0}, {"error": 1.0, "macs": 3.0}, {"speed": 2.0}]


def assert_same_front(index: JobIndex, sequence: int | None, view: Replayed) -> None:
    found, front = index.front(sequence), view.front()
    assert found.sequence == view.history.last_seq
    table = found.table
    assert table.members.dtype == np.int64
    assert table.members.tolist() == [trial.number for trial in front.members]
    assert tuple(table.goals) == index.goals(sequence) == view.goals
    assert table.hypervolume == pytest.approx(front.hypervolume(), abs=1e-12)
    if front.members:
        assert table.knee() == front.knee().number
        for goal in view.goals:
            assert table.best(goal.name) == front.best(goal.name).number
        for weights in PICKS:
            assert table.weighted(weights) == front.weighted(weights).number
    else:
        with pytest.raises(InputError, match="empty"):
            table.knee()


def assert_same_values(index: JobIndex, sequence: int | None, view: Replayed) -> None:
    completed = view.completed()
    numbers = [trial.number for trial in completed]
    assert index.completed(sequence).tolist() == numbers
    for metric in index.metrics:
        for split in ("shown", "search", "report"):
            expected = [of(trial, split, metric) for trial in view.trials()]
            every = range(len(expected))
            found = index.measured(metric, every, sequence, split=split)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found, np.array(expected).reshape(-1, 3))
        values = [shown(trial).measurements.get(metric) for trial in completed]
        np.testing.assert_array_equal(
            index.values(metric, numbers, sequence), [x.value if x else math.nan for x in values]
        )


def of(trial: Trial, split: str, metric: str) -> list[float]:
    """Return value, low and high of a trial, as it is shown or on one split."""
    splits = {"shown": trial.report or trial.evaluation, "search": trial.evaluation}
    evaluation = splits.get(split, trial.report)
    measured = evaluation.measurements.get(metric) if evaluation else None
    if measured is None or trial.state is not TrialState.COMPLETED:
        return [math.nan] * 3
    ends = (math.nan if end is None else end for end in (measured.low, measured.high))
    return [measured.value, *ends]


@given(logs(), st.sampled_from([None, 0.05, 0.4]), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_as_of_every_event_it_answers_as_a_run_that_ends_there(
    events: list[Event], significance: float | None, at_once: int
) -> None:
    job = make_job(significance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "_AT_ONCE", at_once)
        index = indexed(job, events)
    for sequence in reversed(range(len(events) + 1)):
        view = Replayed(job, events[:sequence])
        assert_same_front(index, sequence, view)
        assert_same_values(index, sequence, view)


@given(logs(), st.sampled_from([None, 0.05]))
@settings(deadline=None, max_examples=20)
def test_it_follows_a_log_event_by_event(events: list[Event], significance: float | None) -> None:
    job, index = make_job(significance), JobIndex(make_job(significance), 10)
    fronts: list[set[int]] = [set()]
    for sequence, event in enumerate(events, 1):
        index.apply(outline(event))
        view = Replayed(job, events[:sequence])
        history = view.history
        assert index.last_seq == sequence
        assert_same_front(index, None, view)
        assert_same_values(index, None, view)
        assert len(index) == len(history.trials)
        assert index.sessions.elapsed_s == pytest.approx(history.elapsed_s)
        assert index.sessions.close_reason == history.close_reason
        assert index.sessions.close_detail == history.close_detail
        closed = [x.seq for x in events[:sequence] if x.kind is EventKind.CLOSED]
        assert index.sessions.close_seq == (closed[-1] if history.close_reason else None)
        fronts.append({trial.number for trial in view.front().members})
        for after, before in enumerate(fronts):
            change = index.changes(after)
            assert change.sequence == sequence
            assert change.hypervolume == index.front().table.hypervolume
            assert change.removed.tolist() == sorted(before - fronts[-1])
            order = [x for x in index.front().table.members.tolist() if x not in before]
            assert change.added.tolist() == order


@given(logs())
@settings(deadline=None, max_examples=20)
def test_it_knows_of_every_trial_what_the_log_says(events: list[Event]) -> None:
    job = make_job(None)
    index, view = indexed(job, events), Replayed(job, events)
    for trial in view.trials():
        own = [event for event in events if event.trial == trial.number]
        seqs = {kind: [event.seq for event in own if event.kind is kind] for kind in EventKind}
        ends = ("COMPLETED", "FAILED", "INFEASIBLE", "STOPPED")
        ended = [seq for kind in ends for seq in seqs[EventKind(kind)]]
        assert index.outline(trial.number) == TrialOutline(
            trial.number,
            trial.state,
            trial.searcher,
            trial.rung,
            trial.parent,
            seqs[EventKind.ASKED][0],
            next(reversed(seqs[EventKind.RETRIED]), None),
            next(iter(ended), None),
            next(reversed(seqs[EventKind.REPORTED]), None),
        )
        assert index.children(trial.number) == [
            x.number for x in view.trials() if x.parent == trial.number
        ]
        dominating = dominators(trial, view.front().members, view.goals)
        assert index.dominators(trial.number) == dominating
    for states in itertools.chain([()], itertools.combinations(TrialState, 2)):
        expected = [x.number for x in view.trials() if not states or x.state in states]
        assert index.numbers(states).tolist() == expected
    counted = {x: [trial.state for trial in view.trials()].count(x) for x in TrialState}
    assert index.states == {state: count for state, count in counted.items() if count}


@given(logs())
@settings(deadline=None, max_examples=20)
def test_whole_trials_are_read_from_where_it_says(events: list[Event]) -> None:
    job = make_job(None)
    with tempfile.TemporaryDirectory() as directory, SqlStore(Path(directory) / "a.db") as store:
        store.create_job("key", {})
        log = [Entry(each.kind, each.trial, each.attempt, each.body) for each in events]
        store.append("key", log)
        assert_trials_are_whole(store, "key", job)


def assert_trials_are_whole(store: SqlStore, key: str, job: Job) -> None:
    index = JobIndex(job, 10)
    for each in store.outline(key, bodies=JobIndex.BODIES):
        index.apply(each)
    trials = History.replay(store.events(key)).trials
    assert list(trials) == list(range(len(index)))
    numbers = list(reversed(trials))
    assert trials_from(store, key, index, numbers) == [trials[x] for x in numbers]
    for number, trial in trials.items():
        assert trial_from(store, key, index, number) == trial


def test_the_log_of_a_real_search_is_read_the_same(tmp_path: Path) -> None:
    job = small_job(
        searchers=["random"],
        constraints=["macs <= 0.5 * dense"],
        rungs=[{"images": 10}, {"images": 20}],
        promote_one_in=2,
    )
    _, events = small_search(job, tmp_path / "store.sqlite")
    with SqlStore(tmp_path / "store.sqlite") as store:
        assert_trials_are_whole(store, job.name, job)
        index = JobIndex(job, 10)
        for each in store.outline(job.name, bodies=JobIndex.BODIES):
            index.apply(each)
    assert {"INFEASIBLE", "COMPLETED"} <= index.states.keys()
    assert index.outline(int(index.front().table.members[0])).rung == 1
    for sequence in range(0, len(events), 3):
        view = Replayed(job, events[:sequence])
        found = index.front(sequence).table
        assert found.members.tolist() == [trial.number for trial in view.front().members]
        assert found.hypervolume == pytest.approx(view.front().hypervolume())


def test_a_higher_rung_empties_the_front_even_with_a_trial_that_breaks_a_constraint() -> None:
    def completed(number: int, value: float, *, is_broken: bool = False) -> Entry:
        measured = {name: Measurement(value) for name in ("error", "macs", "speed")}
        violations = {"macs <= 1": 0.5} if is_broken else {}
        return entries.completed(number, Evaluation(measured, violations), attempt=1)

    log = [entries.opened()]
    for number, rung in enumerate([0, 0, 1, 1, 0]):
        policy = POLICIES[0]
        log.append(entries.asked(number, policy, "x", rung=rung, parent=None, batch=0))
    log += [completed(0, 2.0), completed(1, 2.0), completed(2, 1.0, is_broken=True)]
    log += [completed(4, 1.0), completed(3, 3.0)]
    index = indexed(make_job(None), logged(log))
    fronts = [index.front(sequence).table.members.tolist() for sequence in range(len(log) + 1)]
    assert fronts == [*[[]] * 7, [0], [0], [], [], [3]]


def test_of_thousands_the_same_ones_stand_however_many_wait() -> None:
    job, events = make_job(None), logged(list(thousands(3000)))
    index = indexed(job, events)
    for sequence in (1, 30, 500, 2500, 3020, 3030, 3500, len(events)):
        view = Replayed(job, events[:sequence])
        members = [trial.number for trial in view.front().members]
        assert index.front(sequence).table.members.tolist() == members
    assert index.front(500).table is index.front(500).table


def test_many_moments_are_asked_for_in_turn_and_again() -> None:
    job, events = make_job(None), logged(list(thousands(100)))
    index = indexed(job, events)
    moments = range(0, len(events), 3)
    first = [index.front(each).table.members.tolist() for each in moments]
    assert [index.front(each).table.members.tolist() for each in moments] == first
    assert len({tuple(each) for each in first}) > 20


def test_what_cannot_be_asked_is_refused() -> None:
    index = indexed(make_job(None), logged(list(thousands(30))))
    for sequence in (-1, index.last_seq + 1):
        for refused in (
            lambda: index.front(sequence),  # noqa: B023
            lambda: index.goals(sequence),  # noqa: B023
            lambda: index.changes(sequence),  # noqa: B023
            lambda: index.completed(sequence),  # noqa: B023
            lambda: index.values("error", [0], sequence),  # noqa: B023
        ):
            with pytest.raises(InputError, match=f"no event {sequence}"):
                refused()
    for number in (-1, 30):
        for refused in (
            lambda: index.outline(number),  # noqa: B023
            lambda: index.children(number),  # noqa: B023
            lambda: index.dominators(number),  # noqa: B023
            lambda: index.values("error", [3, number]),  # noqa: B023
        ):
            with pytest.raises(RunError, match=f"trial {number} of job does not exist"):
                refused()
    with pytest.raises(InputError, match="did you mean 'error'"):
        index.values("eror", [0])
    assert index.values("error", []).shape == (0,)


def test_what_cannot_follow_is_refused_and_changes_nothing() -> None:
    log = [entries.opened(), entries.asked(0, POLICIES[0], "x", rung=0, parent=None, batch=0)]
    done = entries.completed(
        0, Evaluation({x: Measurement(1.0) for x in ("error", "macs", "speed")}), attempt=1
    )
    stopped = Entry(EventKind.STOPPED, 0, body={"reason": "cut"})
    ask = entries.asked(2, POLICIES[0], "x", rung=0, parent=None, batch=0)
    for before, refused in (
        ([], ask),
        ([], replace(ask, trial=0)),
        ([], replace(done, trial=7)),
        ([], replace(done, kind=EventKind.REPORTED)),
        ([done], done),
        ([done], stopped),
        ([stopped], replace(done, kind=EventKind.REPORTED)),
        ([done], Entry(EventKind.RETRIED, 0)),
    ):
        events = logged([*log, *before, refused])
        index = indexed(make_job(None), events[:-1])
        for _ in range(2):
            with pytest.raises(StoreError):
                index.apply(outline(events[-1]))
        assert (index.last_seq, len(index)) == (len(events) - 1, 1)
    for seq in (1, 3):
        with pytest.raises(StoreError, match="gap"):
            index = indexed(make_job(None), logged(log)[:1])
            index.apply(outline(replace(logged(log)[1], seq=seq)))
