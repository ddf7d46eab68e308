"""Logs as the server follows them: an index of each, and the events for those who watch.

    logs = Logs(directory, store)
    log = await logs.of(submission)          # None while the job has no log yet
    await log.refresh()                      # the index now holds what was written by now
    batch = await log.batch(after=17)        # the events 18 … as a message, shared by watchers

A log is read by whoever needs it, and no more often than every `FRESH_S`. What the index holds is
only changed on the event loop, so that an answer that does not wait sees one state.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from autoprune.contracts.store import Event, Outline, Store
from autoprune.graph.network import NetworkGraph
from autoprune.index.job_index import JobIndex
from autoprune.index.trials import trials_from
from autoprune.job.spec import Job
from autoprune.store.location import has_store, open_store
from autoprune.store.sql import SqlStore
from autoprune.trial import Trial
from cluster.proto.autoprune.v1 import search_service_pb2 as search_pb
from cluster.service.registry import Submission

FRESH_S = 0.05
_STEP = 1000  # events that are taken in before others have their turn
_BATCH_EVENTS, _BATCH_BYTES = 500, 2**20
_BATCHES = 32  # of those who watch most are at the same place
# Beyond so many logs those go that nobody has asked for during so many seconds.
_KEPT_LOGS, _KEPT_S = 64, 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in a serialised `WatchJobResponse`; `last` is the sequence number of the newest."""

    last: int
    message: bytes


class LiveLog:
    """One job's log: an index that follows it, and its events in batches."""

    def __init__(self, store: Store, key: str, spec: dict[str, Any]) -> None:
        self.preparation = spec["preparation"]
        self.job = Job.model_validate(spec["job"])
        self.index = JobIndex(self.job, self.preparation["num_classes"])
        self.cache: OrderedDict[Any, bytes] = OrderedDict()  # of serialised trials
        self.used_at = time.monotonic()
        self._store = store
        self._key = key
        self._graph: NetworkGraph | None = None
        self._read_at = 0.0
        self._turn = asyncio.Lock()
        self._grown = asyncio.Condition()
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        self._batch_turn = asyncio.Lock()

    @property
    def graph(self) -> NetworkGraph:
        """The network's groups and layers."""
        if self._graph is None:
            self._graph = NetworkGraph.from_json(self.preparation["graph"])
        return self._graph

    @property
    def is_fresh(self) -> bool:
        """Say whether the log was read just now."""
        return time.monotonic() - self._read_at < FRESH_S

    def load(self) -> None:
        """Take in the whole log; only before others know of this object."""
        for outline in self._store.outline(self._key, bodies=JobIndex.BODIES):
            self.index.apply(outline)
        self._read_at = time.monotonic()

    async def refresh(self) -> None:
        """Take in what was written since the last look."""
        if self.is_fresh:
            return
        async with self._turn:
            before = self.index.last_seq
            while not self.is_fresh:
                begun = time.monotonic()
                new = await asyncio.to_thread(self._read, self.index.last_seq)
                for each in new:
                    self.index.apply(each)
                if len(new) < _STEP:
                    self._read_at = begun
                    break
            if self.index.last_seq > before:
                async with self._grown:
                    self._grown.notify_all()

    async def grown(self, after: int, timeout_s: float) -> bool:
        """Wait until there are events after `after`; say whether there are any."""
        if self.index.last_seq <= after:
            try:
                async with asyncio.timeout(timeout_s), self._grown:
                    await self._grown.wait_for(lambda: self.index.last_seq > after)
            except TimeoutError:
                return False
        return True

    async def batch(self, after: int) -> Batch:
        """Return the events after `after`, of which there must be some: as many as fit."""
        async with self._batch_turn:
            if after not in self._batches:
                self._batches[after] = await asyncio.to_thread(self._batch, after)
                if len(self._batches) > _BATCHES:
                    self._batches.popitem(last=False)
            return self._batches[after]

    async def trials(self, numbers: Sequence[int]) -> list[Trial]:
        """Return whole trials, read from the log."""
        return await asyncio.to_thread(trials_from, self._store, self._key, self.index, numbers)

    def _read(self, after: int) -> list[Outline]:
        found = self._store.outline(self._key, after, bodies=JobIndex.BODIES)
        return list(islice(found, _STEP))

    def _batch(self, after: int) -> Batch:
        message, size, last = search_pb.WatchJobResponse(), 0, after
        for event in islice(self._store.events(self._key, after), _BATCH_EVENTS):
            made = message.events.add()
            _fill(made, event)
            last = event.seq
            size += len(made.body_json)
            if size > _BATCH_BYTES:
                break
        return Batch(last, message.SerializeToString())


class Logs:
    """The logs of all jobs; those that nobody has asked for lately are forgotten, and read again.

    `shared` is the database that holds all logs, None where each lies in its job's directory.
    """

    def __init__(self, directory: Path, shared: SqlStore | None) -> None:
        self._directory = directory
        self._shared = shared
        self._known: OrderedDict[str, LiveLog] = OrderedDict()
        self._stores: dict[str, SqlStore] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def directory_of(self, job: Submission) -> Path:
        """Return where the files of a job lie."""
        return self._directory / "jobs" / job.id

    async def of(self, job: Submission) -> LiveLog | None:
        """Return the log of a job, up to date; None while it has none."""
        log = self._known.get(job.id)
        if log is None:
            async with self._turns.setdefault(job.id, asyncio.Lock()):
                log = self._known.get(job.id) or await asyncio.to_thread(self._open, job)
            if log is None:
                return None
            self._known[job.id] = log
            self._trim()
        self._known.move_to_end(job.id)
        log.used_at = time.monotonic()
        await log.refresh()
        return log

    async def delete(self, job: Submission) -> None:
        """Remove a job's log from the database that all share; its directory is not touched."""
        self.forget(job.id)
        if self._shared is not None:
            await asyncio.to_thread(self._shared.delete_job, job.id)

    def forget(self, identity: str) -> None:
        """Release what is held of a job."""
        self._known.pop(identity, None)
        self._turns.pop(identity, None)
        store = self._stores.pop(identity, None)
        if store is not None:
            store.close()

    def close(self) -> None:
        """Release everything."""
        for identity in list(self._known):
            self.forget(identity)

    def _open(self, job: Submission) -> LiveLog | None:
        directory = self.directory_of(job)
        if not has_store(directory):
            return None
        store = self._shared or open_store(directory, read_only=True)
        record = store.find(job.id)
        if record is None:  # it is being made
            if store is not self._shared:
                store.close()
            return None
        if store is not self._shared:
            self._stores[job.id] = store
        log = LiveLog(store, job.id, dict(record.spec))
        log.load()
        return log

    def _trim(self) -> None:
        idle_since = time.monotonic() - _KEPT_S
        for identity, log in list(self._known.items()):
            if len(self._known) > _KEPT_LOGS and log.used_at < idle_since:
                self.forget(identity)


def _fill(message: search_pb.JobEvent, event: Event) -> None:
    message.sequence = event.seq
    message.time.FromNanoseconds(int(event.time * 1e9))
    message.kind = event.kind
    if event.trial is not None:
        message.trial = event.trial
    message.attempt = event.attempt
    message.body_json = json.dumps(event.body)
