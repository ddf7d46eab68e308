"""The contract of a store: the append-only log of jobs.

    store.create_job("resnet20", spec)            # StoreError if the name is taken
    epoch = store.acquire("resnet20", "host-a/17", lease_s=20.0)      # this job is mine now
    store.append("resnet20", [Entry("ASKED", trial=0, body={...})], epoch=epoch, after=0)
    for event in store.events("resnet20", after=0): ...
    for each in store.outline("resnet20", bodies=[EventKind.CLOSED]): ...   # few bodies
    store.release("resnet20", epoch)

* `append` is atomic and durable: when it returns, all entries survive a power cut; when it
  raises, none was written. One exception: a connection that is lost during the commit
  leaves open which; `after` tells, for a repeated call is refused if the first one wrote.
* Sequence numbers of a job start at 1 and have no gap.
* The log of a job obeys the life of a trial: asked once, in order, and ended at most once.
* One controller writes a job, any number of processes read it at the same time. A job has
  an epoch, 0 before it is first acquired; each `acquire` raises it, and who writes with an
  older one is refused, whatever he believes. The lease runs by the database's clock and only
  keeps others from acquiring; when it has run out, its holder still may write until somebody
  else has acquired.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self


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


class Origin(NamedTuple):
    """Where a trial comes from: who proposed it, at which rung, promoted from which trial."""

    searcher: str
    rung: int
    parent: int | None


class Outline(NamedTuple):
    """An event of which only some is read: with its body, or without (None).

    `origin` is there for ASKED events, whatever becomes of their bodies. A tuple, for logs have
    hundreds of thousands of them.
    """

    seq: int
    time: float
    kind: EventKind
    trial: int | None
    attempt: int
    body: Mapping[str, Any] | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as stored: its name, the whole specification, and when it was created."""

    name: str
    spec: Mapping[str, Any]
    created: float


@dataclass(frozen=True, slots=True)
class Lease:
    """Who drives a job: `owner` says so since `epoch`; `remaining_s` below zero: run out."""

    epoch: int
    owner: str
    remaining_s: float


class Store(ABC):
    """The append-only log of jobs. Closed with `close`, or used as a context manager.

    Every method raises `StoreUnavailableError` where the storage cannot serve just now (a full
    disk, a lock held by others, a lost connection): the same call may succeed later.
    """

    @abstractmethod
    def create_job(self, name: str, spec: Mapping[str, Any]) -> JobRecord:
        """Create a job with an empty log; raises `StoreError` if the name is taken."""

    @abstractmethod
    def delete_job(self, name: str) -> None:
        """Remove a job with its log and snapshots; one that is gone already is no error."""

    @abstractmethod
    def jobs(self) -> Sequence[JobRecord]:
        """Return all jobs, oldest first."""

    @abstractmethod
    def acquire(
        self, job: str, owner: str, lease_s: float, *, instead_of: int | None = None
    ) -> int:
        """Take a job over for `lease_s` seconds and return the new epoch.

        Raises `JobHeldError` while the lease of another owner runs, unless its epoch is
        `instead_of`, whose holder the caller knows to be dead.
        """

    @abstractmethod
    def renew(self, job: str, epoch: int, lease_s: float) -> None:
        """Let the lease run `lease_s` seconds from now; raises `FencedError`."""

    @abstractmethod
    def release(self, job: str, epoch: int) -> None:
        """End the lease now; raises `FencedError`."""

    @abstractmethod
    def lease(self, job: str) -> Lease | None:
        """Return the newest lease of a job, run out or not; None before the first."""

    @abstractmethod
    def append(
        self, job: str, entries: Sequence[Entry], *, epoch: int = 0, after: int | None = None
    ) -> Sequence[Event]:
        """Write entries in order, all or none.

        Raises `FencedError` where `epoch` is not the job's, and `StoreError` where the newest
        event is not `after`, where a trial would be asked out of order or end twice, or for an
        entry that is not plain JSON.
        """

    @abstractmethod
    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """Iterate over the events with `seq > after`, in order."""

    @abstractmethod
    def outline(
        self, job: str, after: int = 0, *, bodies: Collection[EventKind]
    ) -> Iterator[Outline]:
        """Iterate as `events` does, but leave out the bodies of other kinds than `bodies`.

        Several times as fast where those are most of a log.
        """

    @abstractmethod
    def events_at(self, job: str, seqs: Sequence[int]) -> Sequence[Event]:
        """Return the events at `seqs`, in that order; raises `StoreError` where there is none."""

    def event(self, job: str, seq: int) -> Event:
        """Return the event at `seq`; raises `StoreError` where there is none."""
        return self.events_at(job, [seq])[0]

    @abstractmethod
    def save_snapshot(self, job: str, seq: int, body: bytes, *, epoch: int = 0) -> None:
        """Keep what follows from the events up to `seq`; older ones but one may go.

        Raises `StoreError` for an unknown job and `FencedError`.
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
