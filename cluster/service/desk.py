"""Where every call begins: the job that is meant, if the caller may see it, and its log."""

from __future__ import annotations

from autoprune.errors import Violation
from cluster.service.identity import NAME, Caller
from cluster.service.live import LiveLog, Logs
from cluster.service.refusal import invalid, missing, precondition
from cluster.service.registry import Registry, Submission, Wanted


class Desk:
    """Finds jobs of the caller's tenant; those of others do not exist for it."""

    def __init__(self, registry: Registry, logs: Logs) -> None:
        self.logs = logs
        self._registry = registry

    def job(self, caller: Caller, name: str) -> Submission:
        """Return a job; a `Refusal` where there is none of that name, or no such name."""
        if not NAME.fullmatch(name):
            rule = "1 to 63 lower-case letters, digits, '-' and '_', the first a letter or digit"
            raise invalid([Violation("job", name[:200], rule)])
        job = self._registry.find(caller.tenant, name)
        if job is None or job.wanted is Wanted.DELETE:
            raise missing("job", name)
        return job

    async def log(self, job: Submission) -> LiveLog | None:
        """Return a job's log, up to date; None while it has none."""
        return await self.logs.of(job)

    async def open(self, caller: Caller, name: str) -> tuple[Submission, LiveLog]:
        """Return a job and its log; a `Refusal` where it has none yet."""
        job = self.job(caller, name)
        log = await self.log(job)
        if log is None:
            raise precondition(
                f"the search of {name!r} has not begun: its network is being examined, or it failed"
            )
        return job, log
