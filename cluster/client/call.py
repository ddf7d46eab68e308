"""The calls of the protocol: each a request, and how its answer is read.

    call = get_job("digits")
    call.read(stub.GetJob(call.request))      # a JobStatus

Both clients make the same calls; they differ in how they wait.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask

from autoprune.errors import InputError
from autoprune.job.constraint import Constraint
from autoprune.job.load import read_job_file
from autoprune.pick import Pick
from autoprune.trial import Trial, TrialState
from cluster.client import message
from cluster.client.message import Answer, Explanation, JobState, JobStatus
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as search_pb

if TYPE_CHECKING:
    from autoprune.job.spec import Job

T = TypeVar("T")
_SEARCH, _FRONT = "SearchService", "FrontService"
_EVERYTHING = FieldMask(paths=["*"])
# Trials in full are some kilobytes each, more where values have parts for every group.
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: its service and method, the request, and how to read the answer.

    `done_by` is the code that a repetition meets where an earlier attempt got through and
    only its answer was lost; then the call has succeeded, and there is nothing to read.
    """

    service: str
    method: str
    request: Any
    read: Callable[[Any], T]
    done_by: str = ""

    def is_done(self, code: Any, failures: int) -> bool:
        """Say whether a repetition's gRPC code tells that an earlier attempt had got through."""
        return failures > 0 and code.name == self.done_by


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and the token of the next part; empty on the last one."""

    items: Sequence[T]
    next_token: str


def submit(
    job: Job | Mapping[str, Any] | str | Path, request_id: str | None, validate_only: bool
) -> Call[JobStatus]:
    """Submit a job, made here or in a YAML file; a new request_id unless one is given."""
    try:
        spec = json.dumps(_raw(job), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the job cannot be sent as JSON: {error}") from error
    request = search_pb.SubmitJobRequest(
        request_id=uuid.uuid4().hex if request_id is None else request_id,
        spec_json=spec,
        validate_only=validate_only,
    )
    return Call(_SEARCH, "SubmitJob", request, _status)


def get_job(name: str, *, with_preparation: bool = False) -> Call[JobStatus]:
    """Look at a job."""
    request = search_pb.GetJobRequest(job=name, with_preparation=with_preparation)
    return Call(_SEARCH, "GetJob", request, _status)


def list_jobs(states: Iterable[JobState | str], token: str) -> Call[Page[JobStatus]]:
    """List jobs in one of `states`, in any state without, a page of them."""
    named = [message.state_named(each) for each in states]
    request = search_pb.ListJobsRequest(states=named, page_token=token)
    return Call(_SEARCH, "ListJobs", request, _jobs)


def cancel(name: str, now: bool) -> Call[JobStatus]:
    """End a search, when what runs has finished, or now."""
    mode = search_pb.CANCEL_MODE_NOW if now else search_pb.CANCEL_MODE_DRAIN
    return Call(_SEARCH, "CancelJob", search_pb.CancelJobRequest(job=name, mode=mode), _status)


def resume(name: str, trials: int | None, minutes: float | None) -> Call[JobStatus]:
    """Go on with a job, with another budget where one is given."""
    if minutes is not None and not math.isfinite(minutes):
        raise InputError(f"minutes must be a finite number, given: {minutes}")
    request = search_pb.ResumeJobRequest(job=name, trials=trials, minutes=minutes)
    return Call(_SEARCH, "ResumeJob", request, _status)


def delete(name: str) -> Call[None]:
    """Remove a job and everything that belongs to it."""
    request = search_pb.DeleteJobRequest(job=name)
    return Call(_SEARCH, "DeleteJob", request, lambda _: None, done_by="NOT_FOUND")


def query(
    name: str,
    *,
    where: Sequence[str],
    sort: str | None,
    top: int | None,
    pick: str | None,
    sequence: int,
    everything: bool,
) -> front_pb.QueryFrontRequest:
    """Return the request for trials of a front; see `Client.query`."""
    return front_pb.QueryFrontRequest(
        job=name,
        bounds=[_bound(text) for text in where],
        sort=sort or "",
        top=top or 0,
        pick=None if pick is None else _pick(pick),
        sequence=sequence,
        everything=everything,
    )


def front_page(request: front_pb.QueryFrontRequest, token: str) -> Call[Page[Answer]]:
    """Ask for a page of the trials that `request` describes, as summaries."""
    return Call(_FRONT, "QueryFront", _page(request, token), _answers)


def full_front_page(name: str, token: str) -> Call[Page[front_pb.QueryFrontResponse]]:
    """Ask for a page of a front with everything that is known of its trials."""
    request = front_pb.QueryFrontRequest(job=name, field_mask=_EVERYTHING, page_size=_PAGE)
    return Call(_FRONT, "QueryFront", _page(request, token), _whole)


def list_trials(name: str, token: str, states: Sequence[TrialState] = ()) -> Call[Page[Trial]]:
    """List trials in one of `states`, all without, in full."""
    request = front_pb.ListTrialsRequest(
        job=name,
        states=[f"TRIAL_STATE_{each}" for each in states],
        field_mask=_EVERYTHING,
        page_size=_PAGE,
        page_token=token,
    )
    return Call(_FRONT, "ListTrials", request, _trials)


def get_trial(name: str, trial: str) -> Call[Trial]:
    """Look at one trial in full."""
    request = front_pb.GetTrialRequest(job=name, trial=trial)
    return Call(_FRONT, "GetTrial", request, lambda answer: message.trial_of(answer.trial))


def explain(name: str, trial: str) -> Call[Explanation]:
    """Ask why a trial is on the front or is not."""
    request = front_pb.ExplainTrialRequest(job=name, trial=trial)
    return Call(_FRONT, "ExplainTrial", request, message.explanation_of)


def watch_job(name: str, after: int) -> Call[Any]:
    """Ask for the events after one, and for those to come."""
    request = search_pb.WatchJobRequest(job=name, after_sequence=after)
    return Call(_SEARCH, "WatchJob", request, lambda answer: answer)


def watch_front(name: str, after: int) -> Call[Any]:
    """Ask for what changed on a front after an event, and for what will change."""
    request = search_pb.WatchFrontRequest(job=name, after_sequence=after)
    return Call(_SEARCH, "WatchFront", request, lambda answer: answer)


def export(name: str, trial: str, format_: str, companion: str, offset: int) -> Call[Any]:
    """Ask for a trial in a format, from an offset on: the main file, or a companion of it."""
    request = front_pb.ExportTrialRequest(
        job=name, trial=trial, format=format_, companion=companion, offset=offset
    )
    return Call(_FRONT, "ExportTrial", request, lambda answer: answer)


def _raw(job: Job | Mapping[str, Any] | str | Path) -> Any:
    if isinstance(job, str | Path):
        return read_job_file(Path(job))
    return job if isinstance(job, Mapping) else job.to_json()


def _bound(text: str) -> front_pb.Bound:
    try:
        bound = Constraint.parse(text)
    except ValueError as error:
        raise InputError(f"bound {text!r}: {error}") from error
    if bound.factor and bound.offset:
        raise InputError(f"bound {text!r}: a server takes a number, or a multiple of dense")
    limit = bound.factor or bound.offset
    side = {"most": limit} if bound.relation == "<=" else {"least": limit}
    return front_pb.Bound(metric=bound.metric, of_dense=bool(bound.factor), **side)


def _pick(text: str) -> front_pb.Pick:
    pick = Pick.parse(text)
    if pick.number is not None:
        raise InputError(f"a front is asked for knee, best:METRIC or weights:…, given: {text!r}")
    if pick.best is not None:
        return front_pb.Pick(best=pick.best)
    if pick.weights:
        return front_pb.Pick(weights=front_pb.Weights(weights=pick.weights))
    return front_pb.Pick(knee=True)


def _page(request: front_pb.QueryFrontRequest, token: str) -> front_pb.QueryFrontRequest:
    page = front_pb.QueryFrontRequest()
    page.CopyFrom(request)
    page.page_token = token
    return page


def _status(answer: Any) -> JobStatus:
    return message.status_of(answer.job)


def _jobs(answer: search_pb.ListJobsResponse) -> Page[JobStatus]:
    return Page([message.status_of(each) for each in answer.jobs], answer.next_page_token)


def _trials(answer: front_pb.ListTrialsResponse) -> Page[Trial]:
    return Page([message.trial_of(each) for each in answer.trials], answer.next_page_token)


def _whole(answer: front_pb.QueryFrontResponse) -> Page[front_pb.QueryFrontResponse]:
    return Page([answer], answer.next_page_token)


def _answers(answer: front_pb.QueryFrontResponse) -> Page[Answer]:
    page = Answer(
        tuple(map(message.summary_of, answer.trials)),
        tuple(map(message.goal_of, answer.objectives)),
        answer.hypervolume if answer.HasField("hypervolume") else None,
        answer.sequence,
    )
    return Page([page], answer.next_page_token)
