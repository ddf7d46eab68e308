"""Logs for the index, and a run that replays them anew for every question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from hypothesis import strategies as st

from autoprune.contracts.exported import Exported
from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.contracts.store import Entry, Event, EventKind, Origin, Outline
from autoprune.index.job_index import JobIndex
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.run_view import RunView
from autoprune.store import entries
from autoprune.store.history import History
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, Trial
from tests.searching import small_job
from tests.unit.test_history_fold import logged

CRASH = Failure(FailureKind.CRASH, "signal 11")
POLICIES = [Policy.from_keep_ratios({"conv1": ratio}) for ratio in (0.25, 0.5, 0.75)]


class Speed(Objective):
    """Something to maximise: no objective of ours is."""

    name: ClassVar[str] = "speed"
    unit: ClassVar[str] = "1/s"
    stage: ClassVar[Stage] = Stage.NETWORK
    goal: ClassVar[Literal["min", "max"]] = "max"

    def measure(self, subject: Subject) -> Measurement:
        raise NotImplementedError


class Replayed(RunView):
    """A run whose log is a list of events."""

    def __init__(self, job: Job, events: Sequence[Event]) -> None:
        self.job = job
        self.history = History.replay(events)

    @property
    def preparation(self) -> Mapping[str, Any]:
        return {"num_classes": 10}

    def trials(self) -> Sequence[Trial]:
        return list(self.history.trials.values())

    def find(self, number: int) -> Trial | None:
        return self.history.trials.get(number)

    def export(self, trial: Trial, to: str, out: Path, **options: Any) -> Exported:
        raise NotImplementedError


def make_job(significance: float | None) -> Job:
    objectives = ["error", "macs", {"name": f"{__name__}:Speed"}]
    return small_job(objectives=objectives, significance=significance)


def outline(event: Event) -> Outline:
    """Return what a store tells an index of an event."""
    seq, time, kind, trial, attempt, body = (
        getattr(event, name) for name in ("seq", "time", "kind", "trial", "attempt", "body")
    )
    origin = None
    if kind is EventKind.ASKED:
        origin = Origin(body["searcher"], body["rung"], body["parent"])
    told = body if kind in JobIndex.BODIES else None
    return Outline(seq, time, kind, trial, attempt, told, origin)


def indexed(job: Job, events: Sequence[Event]) -> JobIndex:
    index = JobIndex(job, 10)
    for event in events:
        index.apply(outline(event))
    return index


# Few distinct values, so that ties and duplicates are the rule; speed is better the higher.
VALUES = st.sampled_from([1.0, 2.0, 3.0, 4.0])
HALVES = st.sampled_from([0.0, 0.0, 0.7, 1.3])


@st.composite
def evaluations(draw: st.DrawFn, *, is_dense: bool = False) -> Evaluation:
    measured = {}
    for name in ("error", "macs", "speed"):
        value, half = 2.0 if is_dense else draw(VALUES), draw(HALVES)
        measured[name] = Measurement(value, value - half, value + half) if half else None
        measured[name] = measured[name] or Measurement(value)
    extra = {"latency_ms": Measurement(draw(VALUES), note="noisy")} if draw(st.booleans()) else {}
    fate = -1 if is_dense else draw(st.integers(0, 5))
    return Evaluation(
        {**measured, **extra},
        violations={"macs <= 1": 0.5} if fate == 0 else {},
        misses={"error <= 1": 0.5} if fate == 1 else {},
        seconds=2.5,
    )


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Draw a log that could have been written: promotions, retries, reports, sessions."""
    log, times, now = [entries.opened()], [100.0], 100.0
    rungs: dict[int, int] = {}
    waiting, completed = list[int](), list[int]()

    def ask(policy: Policy, rung: int, parent: int | None, searcher: str) -> Entry:
        number = len(rungs)
        rungs[number] = rung
        waiting.append(number)
        return entries.asked(number, policy, searcher, rung=rung, parent=parent, batch=0)

    for choice in draw(st.lists(st.integers(0, 99), min_size=5, max_size=45)):
        now += draw(st.sampled_from([0.0, 0.5, -0.5, 3.0]))
        if choice < 30 or not rungs:
            searcher = draw(st.sampled_from(["random", "tpe"]))
            log.append(ask(draw(st.sampled_from(POLICIES)), 0, None, searcher))
        elif choice < 40 and (able := [x for x in completed if rungs[x] < 2]):
            parent = draw(st.sampled_from(able))
            log.append(ask(POLICIES[0], rungs[parent] + 1, parent, "nsga2"))
        elif choice < 75 and waiting:
            number = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            completed.append(number)
            evaluation = draw(evaluations(is_dense=number == 0))
            log.append(entries.completed(number, evaluation, attempt=1))
        elif choice < 80 and waiting:
            log.append(draw(_ends(waiting.pop(draw(st.integers(0, len(waiting) - 1))))))
        elif choice < 84 and waiting:
            log.append(entries.retried(draw(st.sampled_from(waiting)), CRASH, attempt=1))
        elif choice < 92 and completed:
            log.append(entries.reported(draw(st.sampled_from(completed)), draw(evaluations())))
        elif choice < 95:
            number = draw(st.integers(0, len(rungs) - 1))
            log.append(entries.repeated(number, POLICIES[1], "tpe", batch=3))
        elif choice < 98:
            log.append(entries.closed("finished", "all done"))
        else:
            log.append(entries.opened())
        times.append(now)
    return logged(log, times)


def _ends(number: int) -> st.SearchStrategy[Entry]:
    """Return the ends of a trial that is not completed."""
    ends = [
        entries.failed(number, CRASH, attempt=2),
        entries.infeasible(number, Evaluation({"macs": Measurement(9.0)})),
        Entry(EventKind.STOPPED, number, body={"reason": "cut"}),
    ]
    # A search without its dense network measured nothing else.
    return st.sampled_from(ends if number else ends[:1])


def thousands(count: int) -> Iterator[Entry]:
    """Yield a log whose results come out of order, and climb to the next rung half-way."""
    rng, ahead = np.random.default_rng(0), 20
    points = np.round(np.abs(rng.normal(size=(count, 3))), 2) + 0.1
    order = np.argsort(np.arange(count) + rng.uniform(0, ahead, count)).tolist()
    yield entries.opened()
    for number in range(count + ahead):
        if number < count:
            rung = int(number > count // 2 and number % 3 == 0)
            yield entries.asked(number, POLICIES[0], "random", rung=rung, parent=None, batch=0)
        if number >= ahead:
            ended = order[number - ahead]
            measured = zip(("error", "macs", "speed"), points[ended].tolist(), strict=True)
            evaluation = Evaluation({name: Measurement(value) for name, value in measured})
            yield entries.completed(ended, evaluation, attempt=1)
