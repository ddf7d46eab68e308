"""What a server tells, as plain values: jobs, events, trials, changes of a front.

Full trials (`trial_of`) are those of the log, digit for digit; a `TrialSummary` is what travels
where nobody asked for policies. What cannot be read raises `ValueError`, `KeyError` or `TypeError`:
then the server is of another version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from autoprune.contracts.objective import Goal
from autoprune.contracts.store import Event, EventKind
from autoprune.errors import InputError, suggestion
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, Trial, TrialState
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import job_pb2, search_service_pb2, trial_pb2


class JobState(StrEnum):
    """Where a job stands; UNKNOWN is a state that only newer clients know."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    CANCELLED = "CANCELLED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"

    @property
    def has_ended(self) -> bool:
        """Say whether nothing happens any more, unless the job is resumed."""
        return self in (JobState.CANCELLED, JobState.FINISHED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as its server sees it.

    `detail` says why it is in its state, where there is something to say. `spec` is the job
    file, `created` Unix seconds, `sequence` the newest event of its log. `trials` counts what
    was asked, `trials_by_state` what became of it. `hypervolume` is None while there is no
    reference box. `preparation` is what was found out about the network, where asked for.
    """

    name: str
    state: JobState
    detail: str
    spec: Mapping[str, Any]
    created: float
    sequence: int
    trials: int
    trials_by_state: Mapping[str, int]
    front_size: int
    hypervolume: float | None
    elapsed_s: float
    preparation: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, without what was submitted and what was found out about it."""
        left_out = ("spec", "preparation")
        body = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return {**body, "state": str(self.state)}


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """A trial without its policy: what it is, what was measured, why it failed."""

    number: int
    state: TrialState
    searcher: str
    rung: int
    policy_sha256: str
    objectives: Mapping[str, Measurement]
    report: Mapping[str, Measurement]
    failure: str
    parent: int | None
    teacher: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class FrontChange:
    """What changed on a front up to the event `sequence`, and its `hypervolume` since then."""

    sequence: int
    added: tuple[TrialSummary, ...]
    removed: tuple[int, ...]
    hypervolume: float | None

    @classmethod
    def joined(cls, parts: Sequence[FrontChange]) -> FrontChange:
        """Return the parts of one change, at least one, as one; the last says how it ended."""
        added = tuple(trial for part in parts for trial in part.added)
        removed = tuple(number for part in parts for number in part.removed)
        return replace(parts[-1], added=added, removed=removed)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a trial is on the front or is not; `details` are those of `autoprune show`."""

    trial: Trial
    on_front: bool
    dominated_by: tuple[int, ...]
    violations: tuple[str, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query of a front found; `sequence` is the event up to which the log is counted in.

    `hypervolume` is that of the whole front.
    """

    trials: tuple[TrialSummary, ...]
    goals: tuple[Goal, ...]
    hypervolume: float | None
    sequence: int

    @classmethod
    def joined(cls, parts: Iterable[Answer]) -> Answer:
        """Return the pages of one answer, at least one, as one."""
        pages = list(parts)
        trials = tuple(trial for page in pages for trial in page.trials)
        return replace(pages[0], trials=trials)


def status_of(job: job_pb2.Job) -> JobStatus:
    """Return a job as a plain value."""
    return JobStatus(
        job.name,
        job_state(job.state),
        job.detail,
        json.loads(job.spec_json) if job.spec_json else {},
        job.create_time.ToNanoseconds() / 1e9,
        job.sequence,
        job.trials,
        dict(job.trials_by_state),
        job.front_size,
        job.hypervolume if job.HasField("hypervolume") else None,
        job.elapsed_seconds,
        json.loads(job.preparation_json) if job.preparation_json else None,
    )


def job_state(number: int) -> JobState:
    """Return a job's state by its number in the protocol."""
    names = {value: name for name, value in job_pb2.JobState.items()}
    name = names.get(number, "").removeprefix("JOB_STATE_")
    return JobState(name) if name in JobState.__members__ else JobState.UNKNOWN


def state_named(state: JobState | str) -> str:
    """Return a job's state in the protocol; raises `InputError` for one that it has not."""
    name = str(state).upper()
    known = [str(each) for each in JobState if each is not JobState.UNKNOWN]
    if name not in known:
        raise InputError(f"unknown state {str(state)!r}; {suggestion(name, known)}")
    return f"JOB_STATE_{name}"


def event_of(event: search_service_pb2.JobEvent) -> Event:
    """Return an event of the log."""
    return Event(
        event.sequence,
        event.time.ToNanoseconds() / 1e9,
        EventKind(event.kind),
        event.trial if event.HasField("trial") else None,
        event.attempt,
        json.loads(event.body_json) if event.body_json else {},
    )


def change_of(change: search_service_pb2.FrontChange) -> FrontChange:
    """Return a front's change as a plain value."""
    return FrontChange(
        change.sequence,
        tuple(map(summary_of, change.added)),
        tuple(change.removed),
        change.hypervolume if change.HasField("hypervolume") else None,
    )


def summary_of(trial: trial_pb2.Trial) -> TrialSummary:
    """Return what a trial's fields without JSON say."""
    return TrialSummary(
        trial.number,
        _trial_state(trial),
        trial.searcher,
        trial.rung,
        trial.policy_sha256,
        {name: _measurement(each) for name, each in trial.objectives.items()},
        {name: _measurement(each) for name, each in trial.report.items()},
        trial.failure,
        *_relatives(trial),
        trial.attempts,
    )


def trial_of(trial: trial_pb2.Trial) -> Trial:
    """Return a trial as its log has it, of one whose fields are all filled."""
    return Trial(
        trial.number,
        Policy.from_json(json.loads(trial.policy_json)),
        trial.searcher,
        trial.rung,
        _trial_state(trial),
        attempts=trial.attempts,
        evaluation=_evaluation(trial.evaluation_json),
        report=_evaluation(trial.report_json),
        failure=_failure(trial.failure),
        parent=trial.parent if trial.HasField("parent") else None,
        teacher=trial.teacher if trial.HasField("teacher") else None,
    )


def goal_of(objective: trial_pb2.Objective) -> Goal:
    """Return an objective with its reference point, as far as it is known."""
    goal: Literal["min", "max"] = "max" if objective.goal == trial_pb2.GOAL_MAX else "min"
    reference = objective.reference if objective.HasField("reference") else None
    return Goal(objective.name, objective.unit, goal, reference)


def explanation_of(answer: front_pb.ExplainTrialResponse) -> Explanation:
    """Return an explanation as a plain value."""
    return Explanation(
        trial_of(answer.trial),
        answer.on_front,
        tuple(answer.dominated_by),
        tuple(answer.violations),
        json.loads(answer.details_json),
    )


def _trial_state(trial: trial_pb2.Trial) -> TrialState:
    name = trial_pb2.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_")
    return TrialState(name)


def _relatives(trial: trial_pb2.Trial) -> tuple[int | None, int | None]:
    parent = trial.parent if trial.HasField("parent") else None
    return parent, trial.teacher if trial.HasField("teacher") else None


def _measurement(measured: trial_pb2.Measurement) -> Measurement:
    low = measured.low if measured.HasField("low") else None
    return Measurement(measured.value, low, measured.high if measured.HasField("high") else None)


def _evaluation(text: str) -> Evaluation | None:
    return Evaluation.from_json(json.loads(text)) if text else None


def _failure(text: str) -> Failure | None:
    """Undo `str` of a failure."""
    kind, _, message = text.partition(": ")
    return Failure(FailureKind(kind), message) if text else None
