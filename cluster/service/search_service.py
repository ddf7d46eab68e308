"""SearchService: jobs are submitted, followed, cancelled, resumed and deleted."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.message import Message

from autoprune.errors import Violation
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.service.admission import Admission, Admitted
from cluster.service.desk import Desk
from cluster.service.dispatcher import Dispatcher
from cluster.service.identity import Caller
from cluster.service.paging import page_place, page_size, page_token
from cluster.service.refusal import invalid, precondition, taken
from cluster.service.registry import Registry, Submission, Wanted
from cluster.service.state import job_message
from cluster.service.watching import Watchers

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_USUAL_PAGE, _LARGEST_PAGE = 50, 500
_MOST_TRIALS, _MOST_MINUTES = 10**9, 10**7


class SearchService:
    """Answers the calls of `autoprune.v1.SearchService`, each for one caller."""

    def __init__(
        self,
        registry: Registry,
        desk: Desk,
        dispatcher: Dispatcher,
        admission: Admission,
        watchers: Watchers,
    ) -> None:
        self._registry = registry
        self._desk = desk
        self._dispatcher = dispatcher
        self._admission = admission
        self._watchers = watchers

    async def SubmitJob(self, request: pb.SubmitJobRequest, caller: Caller) -> Message:  # noqa: N802
        """Accept a job, or find the one that this request submitted before."""
        if not _REQUEST_ID.fullmatch(request.request_id):
            rule = "1 to 128 printable ASCII characters without spaces: the same in every retry"
            raise invalid([Violation("request_id", request.request_id[:200], rule)])
        admitted = await self._admission.admitted(request.spec_json)
        if request.validate_only:
            return pb.SubmitJobResponse(job=job_pb.Job(name=admitted.name, spec_json=admitted.spec))
        job, is_new = await asyncio.to_thread(
            self._registry.submit,
            caller.tenant,
            admitted.name,
            request.request_id,
            admitted.spec,
            admitted.digest,
        )
        if is_new:
            self._dispatcher.wake()
        else:
            _require_same(job, admitted, request.request_id)
        return pb.SubmitJobResponse(job=await self._message(job))

    async def GetJob(self, request: pb.GetJobRequest, caller: Caller) -> Message:  # noqa: N802
        """Return a job."""
        job = self._desk.job(caller, request.job)
        if not request.with_preparation:
            return pb.GetJobResponse(job=await self._message(job))
        log = await self._desk.log(job)
        if log is None:
            raise precondition(f"the network of {job.name!r} has not been examined yet")
        standing = await self._dispatcher.standing(job)
        preparation = json.dumps(log.preparation)
        return pb.GetJobResponse(job=job_message(job, log, standing, preparation))

    async def ListJobs(self, request: pb.ListJobsRequest, caller: Caller) -> Message:  # noqa: N802
        """Return a page of the tenant's jobs, the newest first."""
        size = page_size(request.page_size, _USUAL_PAGE, _LARGEST_PAGE)
        strays = [x for x in request.states if x not in job_pb.JobState.values() or not x]
        if strays:
            raise invalid([Violation("states", x, "no state of a job") for x in strays])
        jobs = self._registry.all(caller.tenant)
        place = page_place(request, caller.tenant, 1)
        # By time of creation, so that jobs that come or go meanwhile move nothing.
        before = place[0] if place else None
        response = pb.ListJobsResponse()
        for job in jobs:
            moment = round(job.created * 1e6)
            if job.wanted is Wanted.DELETE or (before is not None and moment >= before):
                continue
            if len(response.jobs) == size:
                last = response.jobs[-1].create_time.ToMicroseconds()
                response.next_page_token = page_token(request, caller.tenant, last)
                break
            message = await self._message(job)
            if not request.states or message.state in request.states:
                response.jobs.append(message)
        return response

    async def CancelJob(self, request: pb.CancelJobRequest, caller: Caller) -> Message:  # noqa: N802
        """End a search; one that has ended is left as it is."""
        if request.mode not in pb.CancelMode.values():
            raise invalid([Violation("mode", request.mode, "no mode of cancelling")])
        job = self._desk.job(caller, request.job)
        if not (await self._dispatcher.standing(job)).has_ended:
            is_now = request.mode == pb.CANCEL_MODE_NOW or job.wanted is Wanted.STOP
            job = await self._change(job, wanted=Wanted.STOP if is_now else Wanted.DRAIN)
        return pb.CancelJobResponse(job=await self._message(job))

    async def ResumeJob(self, request: pb.ResumeJobRequest, caller: Caller) -> Message:  # noqa: N802
        """Go on with a job that has ended; one that goes on already is left as it is.

        So a call whose answer was lost can be made again.
        """
        job = self._desk.job(caller, request.job)
        budget = _budget(request)
        standing = await self._dispatcher.standing(job)
        if not standing.has_ended:
            goes_on = job.wanted is Wanted.RUN
            if goes_on and budget.items() <= json.loads(job.spec)["budget"].items():
                return pb.ResumeJobResponse(job=await self._message(job))
            state = job_pb.JobState.Name(standing.state).removeprefix("JOB_STATE_").lower()
            raise precondition(f"{job.name!r} is {state}: only a job that has ended is resumed")
        log = await self._desk.log(job)
        spec = json.loads(job.spec)
        if standing.state == job_pb.JOB_STATE_FINISHED and not budget:
            raise precondition(f"{job.name!r} has finished: resume it with a larger budget")
        spec["budget"] = {**spec["budget"], **budget}
        since = log.index.last_seq if log is not None else 0
        job = await self._change(
            job, wanted=Wanted.RUN, failure="", since=since, spec=json.dumps(spec)
        )
        return pb.ResumeJobResponse(job=await self._message(job))

    async def DeleteJob(self, request: pb.DeleteJobRequest, caller: Caller) -> Message:  # noqa: N802
        """Remove a job that nobody works on, with its log and files."""
        job = self._desk.job(caller, request.job)
        is_taken = self._dispatcher.is_taken(job.id)
        if is_taken or not (await self._dispatcher.standing(job)).has_ended:
            raise precondition(f"{job.name!r} has not ended: cancel it first")
        await self.remove(await self._change(job, wanted=Wanted.DELETE))
        return pb.DeleteJobResponse()

    async def WatchJob(  # noqa: N802
        self, request: pb.WatchJobRequest, caller: Caller
    ) -> AsyncIterator[Message | bytes]:
        """Send the events of a log as they come, until the job has ended."""
        job = self._desk.job(caller, request.job)
        async for message in self._watchers.events(caller, job, request.after_sequence):
            yield message

    async def WatchFront(  # noqa: N802
        self, request: pb.WatchFrontRequest, caller: Caller
    ) -> AsyncIterator[Message | bytes]:
        """Send what changes on a front as it comes, until the job has ended."""
        job = self._desk.job(caller, request.job)
        async for message in self._watchers.front(caller, job, request.after_sequence):
            yield message

    async def remove(self, job: Submission) -> None:
        """Remove all that belongs to a job whose deletion has begun."""
        await self._desk.logs.delete(job)
        directory: Path = self._desk.logs.directory_of(job)
        if directory.exists():
            await asyncio.to_thread(shutil.rmtree, directory)
        await asyncio.to_thread(self._registry.delete, job.id)

    async def _change(self, job: Submission, **values: object) -> Submission:
        changed = await asyncio.to_thread(self._registry.change, job.id, **values)
        self._dispatcher.wake()
        return changed

    async def _message(self, job: Submission) -> job_pb.Job:
        standing = await self._dispatcher.standing(job)
        return job_message(job, await self._desk.log(job), standing)


def _require_same(job: Submission, admitted: Admitted, request_id: str) -> None:
    if job.request_id != request_id:
        raise taken(f"there is a job {job.name!r} already: choose another name, or resume it")
    if job.digest != admitted.digest:
        raise taken(f"the request {request_id!r} has submitted another job before: {job.name!r}")


def _budget(request: pb.ResumeJobRequest) -> dict[str, float]:
    """Return the budget that a request names."""
    given = {}
    problems = []
    for name, most in (("trials", _MOST_TRIALS), ("minutes", _MOST_MINUTES)):
        if not request.HasField(name):
            continue
        value = getattr(request, name)
        if not 0 < value <= most:
            problems.append(Violation(name, value, f"above 0 and at most {most}"))
        given[name] = value
    if problems:
        raise invalid(problems)
    return given
