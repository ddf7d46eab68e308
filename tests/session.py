"""A controller whose storage, workers and death are in the hands of a test.

The loop and its store are real. The loop runs in a thread that stands still whenever it
waits for workers; the test says what it finds when it wakes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autoprune.contracts.executor import Executor, Result, WorkItem
from autoprune.contracts.store import Entry, Event
from autoprune.contracts.training import TrainingItem
from autoprune.controller.loop import SearchLoop
from autoprune.errors import StoreUnavailableError
from autoprune.job.spec import Job
from autoprune.store.sql import SqlStore
from tests.searching import small_state

AWAY, AWAY_AFTER_WRITING, DIE, DIE_AFTER_WRITING = "away", "away, late", "die", "die, late"


class Death(BaseException):
    """The process is gone: nothing that would follow happens any more."""


class FaultyStore(SqlStore):
    """A store whose next appends meet with `faults`, and that serves nobody after a death."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.faults: list[str] = []
        self.is_dead = False
        self.newest = 0
        self.acknowledged: list[Event] = []

    def append(self, job: str, new: Sequence[Entry], **options: Any) -> Sequence[Event]:
        fault = self.faults.pop(0) if self.faults else None
        self._strike(fault, AWAY, DIE)
        written = super().append(job, new, **options)
        self.newest = written[-1].seq
        self._strike(fault, AWAY_AFTER_WRITING, DIE_AFTER_WRITING)
        self.acknowledged += written
        return written

    def save_snapshot(self, *given: Any, **options: Any) -> None:
        self._strike(self.faults[0] if self.faults else None, AWAY, DIE)
        super().save_snapshot(*given, **options)

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        self._strike(None, AWAY, DIE)
        return super().events(job, after)

    def _strike(self, fault: str | None, away: str, die: str) -> None:
        self.is_dead |= fault == die
        if self.is_dead:
            raise Death
        if fault == away:
            raise StoreUnavailableError("gone")


class Session(Executor):
    """A controller, and the executor that it works with; what it dispatched waits in `running`.

    `go_on` lets the loop run until it waits again, or has ended: then `end` is what it
    returned or raised. An end that is not `expected` is raised here.
    """

    def __init__(self, path: Path, job: Job, capacity: int, faults: Sequence[str] = ()) -> None:
        self.store = FaultyStore(path)
        epoch = self.store.acquire(job.name, "a controller", lease_s=0.0)
        self.capacity = capacity
        self.running: list[WorkItem] = []
        self.dispatched: list[tuple[WorkItem, int]] = []  # item, newest event by then
        self.end: str | BaseException | None = None
        self.expected: set[type[BaseException]] = {Death} if faults else set()
        state = small_state(job, self.store)
        self.store.faults += faults
        self.loop = SearchLoop(state, self.store, lambda: self, epoch=epoch)
        self._found: queue.SimpleQueue[Sequence[Result]] = queue.SimpleQueue()
        self._stands: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await()

    @property
    def is_live(self) -> bool:
        return self.end is None

    def go_on(self, found: Sequence[Result] = ()) -> None:
        self._found.put(found)
        self._await()

    def die(self) -> None:
        self.store.is_dead = True
        self.expected.add(Death)
        while self.is_live:
            self.go_on()

    @property
    def free(self) -> int:
        return max(0, self.capacity - len(self.running))

    def submit(self, item: WorkItem | TrainingItem) -> None:
        assert isinstance(item, WorkItem)
        assert self.free > 0
        self.running.append(item)
        self.dispatched.append((item, self.store.newest))

    def wait(self, timeout_s: float) -> Sequence[Result]:
        self._stands.put(None)
        found = self._found.get()
        if self.store.is_dead:
            raise Death
        return found

    def close(self) -> None:
        self.running.clear()

    def _run(self) -> None:
        try:
            self.end = self.loop.run()
        except BaseException as error:
            self.end = error
        self._stands.put(None)

    def _await(self) -> None:
        self._stands.get(timeout=30)
        if self.is_live:
            return
        self._thread.join()
        self.store.close()
        if isinstance(self.end, BaseException) and type(self.end) not in self.expected:
            raise self.end
