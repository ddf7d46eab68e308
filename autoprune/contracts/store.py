"""The contract of a store: the append-only log of jobs.

    store.create_job("resnet20", spec)            # StoreError if the name is taken
    store.append("resnet20", [Entry("ASKED", trial=0, body={...})])   # durable on return
    for event in store.events("resnet20", after=0): ...

* `append` is atomic and durable: when it returns, all entries survive a power cut; when it
  raises, none was written.
* Sequence numbers of a job start at 1 and have no gap.
* One process writes a job; any number of processes read it at the same time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class EventKind(StrEnum):
    """What can happen in a job; the log is a sequence of these.

    OPENED, CLOSED   a session of the controller begins or ends; CLOSED carries the reason
    ASKED            a trial was proposed (policy, searcher, rung, parent, batch)
    REPEATED         a searcher proposed a policy that trial already answers
    COMPLETED, FAILED, INFEASIBLE, STOPPED
                     the one terminal event of a trial
    RETRIED          an attempt of a trial failed and another one follows
    REPORTED         a trial was measured again, on the report split
    TRAINED          a slice of the training that a searcher requested is done, or failed
    """

    OPENED = "OPENED"
    CLOSED = "CLOSED"
    ASKED = "ASKED"
    REPEATED = "REPEATED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INFEASIBLE = "INFEASIBLE"
    STOPPED = "STOPPED"
    RETRIED = "RETRIED"
    REPORTED = "REPORTED"
    TRAINED = "TRAINED"


@dataclass(frozen=True, slots=True)
class Entry:
    """An event before it is written: what happened, to which trial, with which details."""

    kind: EventKind
    trial: int | None = None
    attempt: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the log: its place `seq` (from 1, without gaps) and its time (Unix s)."""

    seq: int
    time: float
    kind: EventKind
    trial: int | None
    attempt: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as stored: its name, the whole specification, and when it was created."""

    name: str
    spec: Mapping[str, Any]
    created: float


class Store(ABC):
    """The append-only log of jobs. Closed with `close`, or used as a context manager."""

    @abstractmethod
    def create_job(self, name: str, spec: Mapping[str, Any]) -> JobRecord:
        """Create a job with an empty log; raises `StoreError` if the name is taken."""

    @abstractmethod
    def jobs(self) -> Sequence[JobRecord]:
        """Return all jobs, oldest first."""

    @abstractmethod
    def append(self, job: str, entries: Sequence[Entry]) -> Sequence[Event]:
        """Write entries in order, all or none; raises `StoreError`."""

    @abstractmethod
    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """Iterate over the events with `seq > after`, in order."""

    @abstractmethod
    def save_snapshot(self, job: str, seq: int, body: bytes) -> None:
        """Keep what follows from the events up to `seq`; older ones but one may go.

        Raises `StoreError` for an unknown job.
        """

    @abstractmethod
    def snapshots(self, job: str) -> Sequence[tuple[int, bytes]]:
        """Return the kept snapshots of a job, newest first."""

    @abstractmethod
    def close(self) -> None:
        """Release the store; allowed twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
