"""Following a stream across broken connections: what to ask for next, and what is new.

    following = EventFollowing("digits", after=0)
    while not following.is_finished:
        for answer in stub.WatchJob(following.call().request):
            for event in following.take(answer): ...        # no event twice, none left out

A following knows nothing of channels and clocks; `Client` and `AsyncClient` bring them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from autoprune.contracts.store import Event
from cluster.client import call, message
from cluster.client.call import Call
from cluster.client.download import Download
from cluster.client.message import FrontChange

T = TypeVar("T")


class StreamBroken(Exception):
    """What arrives does not follow what came before: ask again from there."""


class Following(ABC, Generic[T]):
    """A stream that goes on where it broke off. `is_finished` says that all of it was taken."""

    def __init__(self) -> None:
        self.is_finished = False

    @abstractmethod
    def call(self) -> Call[Any]:
        """Return the call that goes on from here."""

    @abstractmethod
    def take(self, answer: Any) -> Sequence[T]:
        """Take in a message; return what is new. Raises `StreamBroken` where some is missing."""

    def is_progress(self, answer: Any) -> bool:
        """Say whether a message ends an outage, so that patience begins anew."""
        return True


class EventFollowing(Following[Event]):
    """The events of a job's log after `after`, until the job has ended."""

    def __init__(self, name: str, after: int) -> None:
        super().__init__()
        self._name = name
        self._after = after

    def call(self) -> Call[Any]:
        """Ask for the events after the last one."""
        return call.watch_job(self._name, self._after)

    def take(self, answer: Any) -> Sequence[Event]:
        """Return the events that were not there before."""
        fresh = [message.event_of(x) for x in answer.events if x.sequence > self._after]
        newest = self._after + len(fresh)
        if [x.seq for x in fresh] != list(range(self._after + 1, newest + 1)):
            raise StreamBroken(f"events after {self._after} are missing")
        if answer.HasField("heartbeat"):
            if answer.heartbeat.sequence > newest:
                raise StreamBroken(f"events after {newest} are missing")
            self.is_finished = message.job_state(answer.heartbeat.state).has_ended
        self._after = newest
        return fresh


class FrontFollowing(Following[FrontChange]):
    """What changes on a job's front after `after`, until the job has ended.

    A large change travels in parts, of which only the last one counts as all of it; it is told
    whole, or, where the stream breaks in between, asked for again.
    """

    def __init__(self, name: str, after: int) -> None:
        super().__init__()
        self._name = name
        self._after = after
        self._parts: list[FrontChange] = []

    def call(self) -> Call[Any]:
        """Ask for what changed since."""
        self._parts.clear()
        return call.watch_front(self._name, self._after)

    def take(self, answer: Any) -> Sequence[FrontChange]:
        """Return a change that was not there before."""
        found = []
        if answer.HasField("change"):
            self._parts.append(message.change_of(answer.change))
            if answer.change.sequence > self._after:
                found.append(FrontChange.joined(self._parts))
                self._parts.clear()
                self._after = answer.change.sequence
        if answer.HasField("heartbeat"):
            self._after = max(self._after, answer.heartbeat.sequence)
            self.is_finished = message.job_state(answer.heartbeat.state).has_ended
        return found


class ExportFollowing(Following[None]):
    """The next file of an export on its way."""

    def __init__(self, name: str, trial: str, format_: str, download: Download) -> None:
        super().__init__()
        self._name = name
        self._trial = trial
        self._format = format_
        self._download = download
        self._part = download.missing

    def call(self) -> Call[Any]:
        """Ask for what is missing; of the trial that it began with, whatever is the knee now."""
        self._part = self._download.missing
        assert self._part is not None, "every file is there"
        begun = self._download.trial
        trial = self._trial if begun is None else str(begun)
        part = self._part
        return call.export(self._name, trial, self._format, part.companion, part.offset)

    def take(self, answer: Any) -> Sequence[None]:
        """Write what arrived."""
        if answer.WhichOneof("message") == "header":
            if not self._download.begin(answer.header):
                raise StreamBroken("the server made other files meanwhile")
        else:
            self._download.write(answer.chunk)
        self.is_finished = self._download.missing is not self._part
        return ()

    def is_progress(self, answer: Any) -> bool:
        """Say whether bytes came: what is said of the file is said again every time."""
        return bool(answer.WhichOneof("message") == "chunk")
