"""Streams: events of a log, and changes of a front, for as many as watch.

Whoever watches is at some sequence number, and asks for what follows. Nothing is queued for
anybody: who reads slowly gets more at a time, and who was away begins where it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc

from autoprune.errors import StoreError, Violation
from autoprune.index.job_index import FrontChange
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.service.dispatcher import Dispatcher
from cluster.service.identity import Caller
from cluster.service.live import LiveLog, Logs
from cluster.service.messages import trial_message
from cluster.service.refusal import Refusal, invalid, later
from cluster.service.registry import Registry, Submission

_LOOK_S = 0.1  # how often a log is read while somebody watches
_HEARTBEAT_S = 10.0
_NO_LOG_S = 0.5
_CHANGES = 200  # trials in one message
_log = logging.getLogger(__name__)


class Watchers:
    """Serves up to `most` streams at a time, of one tenant up to half of them."""

    def __init__(
        self, registry: Registry, logs: Logs, dispatcher: Dispatcher, most: int = 1000
    ) -> None:
        self.most = most
        self._registry = registry
        self._logs = logs
        self._dispatcher = dispatcher
        self._of_tenant: Counter[str] = Counter()
        self._of_job: Counter[str] = Counter()
        self._readers: dict[str, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """How many watch."""
        return self._of_tenant.total()

    async def events(self, caller: Caller, job: Submission, after: int) -> AsyncIterator[bytes]:
        """Yield serialised `WatchJobResponse`s: the events after `after`, in order, each once."""
        with self._watching(caller, job):
            async for log in self._looks(job, after):
                if isinstance(log, pb.Heartbeat):
                    yield pb.WatchJobResponse(heartbeat=log).SerializeToString()
                    continue
                while log.index.last_seq > after:
                    batch = await log.batch(after)
                    after = batch.last
                    yield batch.message

    async def front(self, caller: Caller, job: Submission, after: int) -> AsyncIterator[bytes]:
        """Yield serialised `WatchFrontResponse`s: what changed on the front since `after`."""
        with self._watching(caller, job):
            async for log in self._looks(job, after):
                if isinstance(log, pb.Heartbeat):
                    yield pb.WatchFrontResponse(heartbeat=log).SerializeToString()
                    continue
                change = log.index.changes(after)
                if len(change.added) or len(change.removed):
                    async for message in _messages(log, change, after):
                        yield message
                after = change.sequence

    async def close(self) -> None:
        """Stop reading."""
        for task in self._readers.values():
            task.cancel()

    async def _looks(self, job: Submission, after: int) -> AsyncIterator[LiveLog | pb.Heartbeat]:
        """Yield the log whenever it has grown, else a heartbeat now and then and at the end.

        `after` is where whoever watches begins; then everything is taken to have been seen.
        """
        if after < 0:
            raise invalid([Violation("after_sequence", after, "0 or more")])
        log, seen, beat_at = await self._logs.of(job), after, time.monotonic() + _HEARTBEAT_S
        newest = log.index.last_seq if log is not None else 0
        if after > newest:
            message = f"{job.name!r} has no event {after} yet: the newest is {newest}"
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, message)
        while True:
            if log is not None and log.index.last_seq > seen:
                seen = log.index.last_seq
                yield log
                continue
            if log is None or log.index.sessions.close_seq is not None:
                job = self._registry.get(job.id) or replace(job, failure="it was deleted")
                standing = await self._dispatcher.standing(job)
                if standing.has_ended and (log is None or log.index.last_seq == seen):
                    yield pb.Heartbeat(sequence=seen, state=standing.state)
                    return
            if log is None:
                await asyncio.sleep(_NO_LOG_S)
                log = await self._logs.of(job)
            else:
                await log.grown(seen, min(_HEARTBEAT_S, max(0.0, beat_at - time.monotonic())))
            if time.monotonic() >= beat_at:
                standing = await self._dispatcher.standing(job)
                yield pb.Heartbeat(sequence=seen, state=standing.state)
                beat_at = time.monotonic() + _HEARTBEAT_S

    @contextmanager
    def _watching(self, caller: Caller, job: Submission) -> Iterator[None]:
        """Count a watcher in, and see to it that somebody reads the log."""
        if self.count >= self.most or self._of_tenant[caller.tenant] >= max(1, self.most // 2):
            message = f"{self.count} streams are open, and the server serves {self.most}"
            raise later(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._of_tenant[caller.tenant] += 1
        self._of_job[job.id] += 1
        if job.id not in self._readers:
            self._readers[job.id] = asyncio.create_task(self._read(job))
        try:
            yield
        finally:
            self._of_tenant[caller.tenant] -= 1
            self._of_job[job.id] -= 1
            if not self._of_job[job.id]:
                del self._of_job[job.id]
                self._readers.pop(job.id).cancel()

    async def _read(self, job: Submission) -> None:
        """Follow a log as long as somebody watches."""
        while True:
            try:
                await self._logs.of(job)
            except StoreError as error:
                _log.warning("job %s is not read: %s", job.id, error)
            await asyncio.sleep(_LOOK_S)


async def _messages(log: LiveLog, change: FrontChange, after: int) -> AsyncIterator[bytes]:
    """Yield a change as messages that are not too long; only the last one counts as all of it."""
    numbers, removed = change.added.tolist(), change.removed.tolist()
    for start in range(0, max(1, len(numbers)), _CHANGES):
        part = numbers[start : start + _CHANGES]
        is_last = start + _CHANGES >= len(numbers)
        made = pb.FrontChange(
            sequence=change.sequence if is_last else after,
            added=[trial_message(trial) for trial in await log.trials(part)],
            removed=removed if start == 0 else (),
        )
        if change.hypervolume is not None:
            made.hypervolume = change.hypervolume
        yield pb.WatchFrontResponse(change=made).SerializeToString()
