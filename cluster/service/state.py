"""Where a job stands: what clients want of it, what its log says, and whether it is worked on."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.index.job_index import JobIndex
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.service.live import LiveLog
from cluster.service.registry import Submission, Wanted

_GOOD_ENDS = ("finished", "exhausted")
_WORDS = {"exhausted": "the searchers had nothing more to try"}
ENDED = frozenset({job_pb.JOB_STATE_CANCELLED, job_pb.JOB_STATE_FINISHED, job_pb.JOB_STATE_FAILED})


@dataclass(frozen=True, slots=True)
class Standing:
    """A state of `JobState`, and why."""

    state: job_pb.JobState
    detail: str = ""

    @property
    def has_ended(self) -> bool:
        """Say whether nothing more happens unless a client resumes the job."""
        return self.state in ENDED


def standing_of(
    job: Submission, index: JobIndex | None, *, is_taken: bool, trouble: str
) -> Standing:
    """Return where a job stands.

    `index` is that of its log, None before it has one; `is_taken` says whether somebody is at
    work on it, and `trouble` why nobody can be, empty where somebody can.
    """
    if job.failure:
        return Standing(job_pb.JOB_STATE_FAILED, job.failure)
    sessions = index.sessions if index is not None else None
    if sessions is not None and (sessions.close_seq or 0) > job.since:
        reason = sessions.close_reason or ""
        detail = sessions.close_detail or _WORDS.get(reason, "")
        if reason in _GOOD_ENDS:
            return Standing(job_pb.JOB_STATE_FINISHED, detail)
        if reason == "interrupted":
            by_us = job.wanted is not Wanted.RUN
            outside = "" if by_us else "interrupted, though no client has cancelled it"
            return Standing(job_pb.JOB_STATE_CANCELLED, outside)
        return Standing(job_pb.JOB_STATE_FAILED, detail or reason)
    is_begun = index is not None and index.last_seq > job.since
    if job.wanted is not Wanted.RUN:
        is_idle = not (is_begun or is_taken)
        return Standing(job_pb.JOB_STATE_CANCELLED if is_idle else job_pb.JOB_STATE_DRAINING)
    if is_begun and not trouble:
        return Standing(job_pb.JOB_STATE_RUNNING)
    return Standing(job_pb.JOB_STATE_QUEUED, trouble)


def job_message(
    job: Submission, log: LiveLog | None, standing: Standing, preparation_json: str = ""
) -> job_pb.Job:
    """Return a job as clients see it."""
    made = job_pb.Job(
        name=job.name,
        state=standing.state,
        detail=standing.detail,
        spec_json=job.spec,
        preparation_json=preparation_json,
    )
    made.create_time.FromMicroseconds(round(job.created * 1e6))
    if log is None:
        return made
    index = log.index
    made.sequence = index.last_seq
    made.trials = len(index)
    for state, count in index.states.items():
        made.trials_by_state[state.lower()] = count
    table = index.front().table
    made.front_size = len(table.members)
    if table.hypervolume is not None:
        made.hypervolume = table.hypervolume
    made.elapsed_seconds = index.sessions.elapsed_s
    return made
