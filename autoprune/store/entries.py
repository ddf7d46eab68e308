"""The bodies of events, written here and read by `History`, so that both stay in step.

OPENED      {}
CLOSED      {"reason", "detail"}; the detail is for people
ASKED       {"policy", "searcher", "rung", "parent", "batch"}, and {"teacher"} where one teaches
REPEATED    {"policy", "searcher", "batch"}; its trial is the one that answers
COMPLETED   {"evaluation"}
INFEASIBLE  {"evaluation"}: cheap costs and the constraints that they break
FAILED      {"failure"}
RETRIED     {"failure"}
STOPPED     {"reason"}
REPORTED    {"evaluation"}, on the report split
TRAINED     {"progress"} of a slice of training, or {"failure"} that ended it
"""

from __future__ import annotations

from autoprune.contracts.store import Entry, EventKind
from autoprune.contracts.training import TrainingProgress
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Failure


def opened() -> Entry:
    """A session of the controller begins."""
    return Entry(EventKind.OPENED)


def closed(reason: str, detail: str = "") -> Entry:
    """A session of the controller ends."""
    return Entry(EventKind.CLOSED, body={"reason": reason, "detail": detail})


def asked(
    trial: int,
    policy: Policy,
    searcher: str,
    *,
    rung: int,
    parent: int | None,
    batch: int,
    teacher: int | None = None,
) -> Entry:
    """A policy becomes a trial; `parent` is the trial of the rung below, if promoted."""
    body = {
        "policy": policy.to_json(),
        "searcher": searcher,
        "rung": rung,
        "parent": parent,
        "batch": batch,
    }
    lesson = {} if teacher is None else {"teacher": teacher}
    return Entry(EventKind.ASKED, trial, body={**body, **lesson})


def repeated(trial: int, policy: Policy, searcher: str, *, batch: int) -> Entry:
    """A searcher proposed what `trial` already answers."""
    body = {"policy": policy.to_json(), "searcher": searcher, "batch": batch}
    return Entry(EventKind.REPEATED, trial, body=body)


def completed(trial: int, evaluation: Evaluation, *, attempt: int) -> Entry:
    """A trial was measured."""
    return Entry(EventKind.COMPLETED, trial, attempt, {"evaluation": evaluation.to_json()})


def infeasible(trial: int, evaluation: Evaluation) -> Entry:
    """A trial breaks a constraint on a cheap cost and is never run."""
    return Entry(EventKind.INFEASIBLE, trial, body={"evaluation": evaluation.to_json()})


def failed(trial: int, failure: Failure, *, attempt: int) -> Entry:
    """The last attempt of a trial failed."""
    return Entry(EventKind.FAILED, trial, attempt, {"failure": failure.to_json()})


def retried(trial: int, failure: Failure, *, attempt: int) -> Entry:
    """An attempt failed and another one follows."""
    return Entry(EventKind.RETRIED, trial, attempt, {"failure": failure.to_json()})


def reported(trial: int, evaluation: Evaluation) -> Entry:
    """A completed trial was measured on the report split."""
    return Entry(EventKind.REPORTED, trial, body={"evaluation": evaluation.to_json()})


def trained(progress: TrainingProgress) -> Entry:
    """A slice of the training that a searcher requested is done."""
    return Entry(EventKind.TRAINED, body={"progress": progress.to_json()})


def untrained(failure: Failure) -> Entry:
    """The training that a searcher requested failed for good."""
    return Entry(EventKind.TRAINED, body={"failure": failure.to_json()})
