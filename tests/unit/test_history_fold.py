"""The fold of a log against a slow twin that scans the whole log for every question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.contracts.store import Entry, Event, EventKind
from autoprune.errors import StoreError
from autoprune.policy import Policy
from autoprune.store import entries
from autoprune.store.history import History
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, TrialState

POLICIES = [Policy.from_keep_ratios({"conv1": ratio}) for ratio in (0.25, 0.5, 0.75)]
MEASURED = Evaluation(
    {"error": Measurement(0.1, 0.05, None), "macs": Measurement(5.0)},
    violations={"macs <= 3": 0.5},
    seconds=2.5,
    phases_s={"repair": 1.0},
    peak_bytes=7,
    weights="ab12",
)
OTHER = replace(MEASURED, seconds=9.0)
CRASH = Failure(FailureKind.CRASH, "signal 11")
ENDS = {
    EventKind.COMPLETED: TrialState.COMPLETED,
    EventKind.FAILED: TrialState.FAILED,
    EventKind.INFEASIBLE: TrialState.INFEASIBLE,
    EventKind.STOPPED: TrialState.STOPPED,
}
STOPPED = {"reason": "cut"}


def logged(log: Sequence[Entry], times: Sequence[float] | None = None) -> list[Event]:
    """Return entries as a store would: numbered, timed, and through JSON."""
    return [
        Event(
            seq,
            times[seq - 1] if times else float(seq),
            each.kind,
            each.trial,
            each.attempt,
            json.loads(json.dumps(dict(each.body), allow_nan=False)),
        )
        for seq, each in enumerate(log, 1)
    ]


def ask(trial: int, policy: Policy = POLICIES[0], rung: int = 0) -> Entry:
    return entries.asked(trial, policy, "nsga2", rung=rung, parent=None, batch=0)


def end(kind: EventKind, trial: int) -> Entry:
    """Return a terminal entry of `trial`."""
    if kind is EventKind.COMPLETED:
        return entries.completed(trial, MEASURED, attempt=1)
    if kind is EventKind.FAILED:
        return entries.failed(trial, CRASH, attempt=1)
    if kind is EventKind.INFEASIBLE:
        return entries.infeasible(trial, MEASURED)
    return Entry(EventKind.STOPPED, trial, body=STOPPED)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Draw a log that could have been written, with killed and with closed sessions."""
    log, times, now = [entries.opened()], [100.0], 100.0
    open_trials: list[int] = []
    completed: list[int] = []
    asked = 0
    for choice in draw(st.lists(st.integers(0, 99), max_size=40)):
        now += draw(st.sampled_from([0.0, 0.5, 3.0]))
        if choice < 40 or not (open_trials or completed):
            policy = draw(st.sampled_from(POLICIES))
            log.append(ask(asked, policy, draw(st.integers(0, 1))))
            open_trials.append(asked)
            asked += 1
        elif choice < 75 and open_trials:
            kind = draw(st.sampled_from(list(ENDS)))
            number = open_trials.pop(draw(st.integers(0, len(open_trials) - 1)))
            log.append(end(kind, number))
            if kind is EventKind.COMPLETED:
                completed.append(number)
        elif choice < 80 and open_trials:
            log.append(entries.retried(draw(st.sampled_from(open_trials)), CRASH, attempt=1))
        elif choice < 90 and completed:
            log.append(entries.reported(draw(st.sampled_from(completed)), OTHER))
        elif choice < 95:
            number = draw(st.integers(0, asked - 1))
            log.append(entries.repeated(number, POLICIES[1], "tpe", batch=3))
        else:
            if choice % 2:
                log.append(entries.closed("finished"))
                times.append(now)
                now += 50.0  # nobody worked in between
            log.append(entries.opened())
        times.append(now)
    return logged(log, times)


def ends_of(events: Sequence[Event], number: int) -> list[Event]:
    return [event for event in events if event.trial == number and event.kind in ENDS]


def twin_elapsed_s(events: Sequence[Event]) -> float:
    """Sum over sessions the time from OPENED to the last event before the next OPENED."""
    opens = [i for i, event in enumerate(events) if event.kind is EventKind.OPENED]
    lasts = [*(i - 1 for i in opens[1:]), len(events) - 1]
    return sum(events[b].time - events[a].time for a, b in zip(opens, lasts, strict=True))


@given(logs())
@settings(deadline=None, max_examples=60)
def test_the_fold_agrees_with_a_scan_of_the_log_after_every_event(events: list[Event]) -> None:
    history = History()
    for length, event in enumerate(events, 1):
        history.apply(event)
        seen = events[:length]
        asks = [each for each in seen if each.kind is EventKind.ASKED]
        assert history.last_seq == length
        assert history.next_number == len(asks)
        assert sorted(history.trials) == list(range(len(asks)))
        for each in asks:
            trial = history.trials[each.trial or 0]
            ends = ends_of(seen, trial.number)
            assert trial.number == each.trial
            assert trial.policy.to_json() == each.body["policy"]
            assert trial.rung == each.body["rung"]
            assert trial.state is (ENDS[ends[0].kind] if ends else TrialState.WAITING)
        expected = [each.trial for each in asks if not ends_of(seen, each.trial or 0)]
        assert [trial.number for trial in history.pending] == expected
        assert history.elapsed_s == pytest.approx(twin_elapsed_s(seen))
    assert vars(History.replay(events)) == vars(history)


@given(logs(), st.data())
@settings(deadline=None, max_examples=60)
def test_no_trial_ends_twice(events: list[Event], data: st.DataObject) -> None:
    history = History.replay(events)
    ended = [number for number, trial in history.trials.items() if trial.state.is_terminal]
    if not ended:
        return
    number = data.draw(st.sampled_from(ended))
    before = history.trials[number]
    for kind in ENDS:
        again = replace(logged([end(kind, number)])[0], seq=history.last_seq + 1, time=1e6)
        with pytest.raises(StoreError, match=str(before.state)):
            history.apply(again)
    assert history.trials[number] == before
    assert history.last_seq == len(events)


@pytest.mark.parametrize("seq", [1, 3])
def test_a_gap_or_a_repeated_event_is_refused(seq: int) -> None:
    history = History.replay(logged([entries.opened()]))
    with pytest.raises(StoreError, match="gap"):
        history.apply(replace(logged([entries.closed("finished")])[0], seq=seq))


@pytest.mark.parametrize(
    "impossible",
    [
        ask(2),
        ask(0),
        entries.repeated(7, POLICIES[0], "tpe", batch=0),
        entries.reported(0, MEASURED),
        entries.retried(7, CRASH, attempt=1),
        *(end(kind, 7) for kind in ENDS),
    ],
    ids=lambda entry: f"{entry.kind}-{entry.trial}",
)
def test_what_cannot_follow_is_refused(impossible: Entry) -> None:
    log = [entries.opened(), ask(0)]
    with pytest.raises(StoreError):
        History.replay(logged([*log, impossible]))


@pytest.mark.parametrize("kind", [EventKind.FAILED, EventKind.INFEASIBLE, EventKind.STOPPED])
def test_only_completed_trials_are_reported(kind: EventKind) -> None:
    with pytest.raises(StoreError, match=str(kind)):
        History.replay(
            logged([entries.opened(), ask(0), end(kind, 0), entries.reported(0, MEASURED)])
        )


def test_what_was_written_is_what_is_read() -> None:
    log = [
        entries.opened(),
        ask(0),
        entries.completed(0, MEASURED, attempt=1),
        entries.asked(1, POLICIES[0], "portfolio", rung=1, parent=0, batch=4),
        entries.retried(1, CRASH, attempt=1),
        entries.failed(1, Failure(FailureKind.OOM_GPU, "80 GiB"), attempt=2),
        ask(2, POLICIES[1]),
        entries.infeasible(2, OTHER),
        entries.reported(0, MEASURED),
        entries.reported(0, OTHER),
        entries.closed("finished"),
    ]
    history = History.replay(logged(log))
    first, second, third = history.trials.values()
    assert (first.evaluation, first.report, first.attempts) == (MEASURED, OTHER, 1)
    assert first.searcher == "nsga2"
    assert (second.searcher, second.rung, second.parent, second.attempts) == ("portfolio", 1, 0, 2)
    assert second.failure == Failure(FailureKind.OOM_GPU, "80 GiB")
    assert (third.state, third.evaluation) == (TrialState.INFEASIBLE, OTHER)
    assert history.close_reason == "finished"


def test_a_retried_trial_is_still_open_and_can_complete() -> None:
    log = [entries.opened(), ask(0), entries.retried(0, CRASH, attempt=1)]
    assert [trial.attempts for trial in History.replay(logged(log)).pending] == [1]
    done = History.replay(logged([*log, entries.completed(0, MEASURED, attempt=2)]))
    assert done.pending == []
    assert done.trials[0].attempts == 2


def test_known_finds_open_and_ended_trials_at_their_own_rung() -> None:
    log = [entries.opened(), ask(0), ask(1, POLICIES[1], rung=1)]
    history = History.replay(logged([*log, end(EventKind.FAILED, 0)]))
    assert history.known(POLICIES[0].sha256, 0) is history.trials[0]
    assert history.known(POLICIES[1].sha256, 1) is history.trials[1]
    assert history.known(POLICIES[0].sha256, 1) is None
    assert history.known(POLICIES[2].sha256, 0) is None


def test_only_time_inside_sessions_counts() -> None:
    log = [entries.opened(), ask(0), entries.closed("interrupted"), entries.opened(), ask(1)]
    history = History.replay(logged([*log, entries.opened()], [10, 13, 14, 100, 102.5, 900]))
    assert history.elapsed_s == pytest.approx(4 + 2.5)
    assert history.close_reason is None


def digest(*log: Entry, start: float = 0.0) -> str:
    """Return the digest of a search that asked one trial, to which `log` happened."""
    events = logged([entries.opened(), ask(0), *log])
    return History.replay([replace(x, time=start + x.time) for x in events]).digest()


def test_the_digest_does_not_know_when_or_how_often_something_was_tried() -> None:
    elsewhere = replace(OTHER, device="gpu", peak_bytes=1, phases_s={}, weights=None)
    assert digest(end(EventKind.COMPLETED, 0)) == digest(
        entries.retried(0, CRASH, attempt=1),
        entries.closed("interrupted"),
        entries.opened(),
        entries.repeated(0, POLICIES[0], "tpe", batch=2),
        entries.completed(0, elsewhere, attempt=2),
        start=1e6,
    )
    backwards = replace(MEASURED, measurements=dict(reversed(MEASURED.measurements.items())))
    assert digest(end(EventKind.COMPLETED, 0)) == digest(entries.completed(0, backwards, attempt=1))


def test_the_digest_knows_every_proposal_and_every_value() -> None:
    other = replace(MEASURED, measurements={**MEASURED.measurements, "macs": Measurement(5.5)})
    wider = replace(MEASURED, measurements={**MEASURED.measurements, "macs": Measurement(5.0, 4.0)})
    completed = end(EventKind.COMPLETED, 0)
    digests = [
        digest(),
        *(digest(end(kind, 0)) for kind in ENDS),
        digest(entries.completed(0, other, attempt=1)),
        digest(entries.completed(0, wider, attempt=1)),
        digest(completed, entries.reported(0, MEASURED)),
        digest(completed, entries.reported(0, other)),
        *(
            digest(completed, entries.asked(1, policy, author, rung=rung, parent=parent, batch=0))
            for policy, author, rung, parent in (
                (POLICIES[0], "tpe", 1, 0),
                (POLICIES[0], "tpe", 1, None),
                (POLICIES[0], "tpe", 2, 0),
                (POLICIES[0], "nsga2", 1, 0),
                (POLICIES[1], "tpe", 1, 0),
            )
        ),
    ]
    assert len(set(digests)) == len(digests)


def test_an_empty_history() -> None:
    history = History()
    assert (history.next_number, history.last_seq, history.elapsed_s) == (0, 0, 0.0)
    assert history.pending == []
    assert history.close_reason is None
