"""The client of programs that wait for each answer.

with Client("localhost:8470") as client:
    client.submit("job.yaml")
    for event in client.watch("digits"): ...
    client.run("digits").front().knee()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from autoprune.contracts.exported import Exported
from autoprune.contracts.store import Event
from autoprune.errors import AutopruneError
from cluster.client import call as calls
from cluster.client.call import Call, Page
from cluster.client.caller import Caller, Pursuit
from cluster.client.connection import Connection
from cluster.client.download import Download
from cluster.client.following import (
    EventFollowing,
    ExportFollowing,
    Following,
    FrontFollowing,
    StreamBroken,
)
from cluster.client.message import Answer, Explanation, FrontChange, JobState, JobStatus
from cluster.client.retry import Patience

if TYPE_CHECKING:
    from autoprune.job.spec import Job
    from cluster.client.remote_run import RemoteRun

T = TypeVar("T")


class Client:
    """A client of `autoprune.v1`. Closed with `close`, or used as a context manager.

    `connection` may be HOST:PORT; the environment then says the rest. Calls that meet a server
    that is away or too busy are repeated within `patience`; this is safe, for a submission
    carries the same request_id each time, and the other calls may be made twice. Raises

        JobError, RunError, ExportError, InputError   what was asked cannot be done
        AccessError                                   nobody knows us, or lets us do this
        ServiceError                                  no answer in time, or a fault of the server
    """

    def __init__(
        self,
        connection: Connection | str,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        waiting: Callable[[AutopruneError], None] | None = None,
    ) -> None:
        self._caller = Caller(connection, patience, waiting, grpc)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way, and the connection."""
        self._caller.channel.close()

    def submit(
        self,
        job: Job | Mapping[str, Any] | str | Path,
        request_id: str | None = None,
        *,
        validate_only: bool = False,
    ) -> JobStatus:
        """Submit a job, made here or in a YAML file; the same `request_id` again is no second one.

        Raises `JobError` with every violation, and `RunError` where its name is taken. With
        `validate_only` everything is checked and nothing is started.
        """
        return self.made(calls.submit(job, request_id, validate_only))

    def job(self, name: str) -> JobStatus:
        """Look at a job; raises `RunError` if there is none."""
        return self.made(calls.get_job(name))

    def jobs(self, states: Iterable[JobState | str] = ()) -> Iterator[JobStatus]:
        """Iterate over the jobs, the newest first; those in one of `states` where any are given."""
        wanted = tuple(states)
        return self.paged(lambda token: calls.list_jobs(wanted, token))

    def cancel(self, name: str, *, now: bool = False) -> JobStatus:
        """End a search: what runs is finished first, or with `now` given up."""
        return self.made(calls.cancel(name, now))

    def resume(
        self, name: str, *, trials: int | None = None, minutes: float | None = None
    ) -> JobStatus:
        """Go on with a job that ended early, or one that gets another budget.

        One that is at work already with that budget is left as it is, so that this call can be
        repeated; another budget is refused with `InputError` until it has ended.
        """
        return self.made(calls.resume(name, trials, minutes))

    def delete(self, name: str) -> None:
        """Remove a job that is not running, with everything that belongs to it."""
        self.made(calls.delete(name))

    def watch(self, name: str, after: int = 0) -> Iterator[Event]:
        """Iterate over the events after `after`, then over those to come, until the job has ended.

        Goes on by itself where the server went away: no event comes twice, and none is left out.
        """
        return self._followed(EventFollowing(name, after))

    def watch_front(self, name: str, after: int = 0) -> Iterator[FrontChange]:
        """Iterate over what changes on the front, until the job has ended.

        The first change is everything since the event `after`, and so the whole front for 0.
        """
        return self._followed(FrontFollowing(name, after))

    def query(
        self,
        name: str,
        *,
        where: Sequence[str] = (),
        sort: str | None = None,
        top: int | None = None,
        pick: str | None = None,
        sequence: int = 0,
        everything: bool = False,
    ) -> Answer:
        """Ask for trials of the front, or with `everything` of all completed ones.

        `where` holds bounds such as `macs<=0.4*dense`, `sort` names a metric, best first, `pick`
        is `knee`, `best:METRIC` or `weights:METRIC=W,…`. With `sequence` the front is that of
        the time after that event.
        """
        request = calls.query(
            name,
            where=where,
            sort=sort,
            top=top,
            pick=pick,
            sequence=sequence,
            everything=everything,
        )
        return Answer.joined(self.paged(lambda token: calls.front_page(request, token)))

    def explain(self, name: str, trial: str | int) -> Explanation:
        """Ask why a trial is on the front or is not, and for everything about it."""
        return self.made(calls.explain(name, str(trial)))

    def export(self, name: str, trial: str | int, format: str, path: str | Path) -> Exported:
        """Fetch a trial in a format, as `onnx`, into a new file, with the files that belong to it.

        They get their names when all are whole and their hashes are right; until then, and where
        this fails, there is none. Goes on where the connection broke. The server writes them, and
        does not know `path`: a card calls its picture `card.svg`. Raises `ExportError` where the
        trial has no network or `path`, or a name beside it, cannot be used.
        """
        with Download(Path(path)) as download:
            while download.missing:
                for _ in self._followed(ExportFollowing(name, str(trial), format, download)):
                    pass
            return download.finished()

    def run(self, name: str) -> RemoteRun:
        """Return a job as a run, as `Run.open` returns one of a directory."""
        from cluster.client.remote_run import RemoteRun  # slow to import: pydantic and more

        return RemoteRun(self, self.job(name))

    def made(self, call: Call[T]) -> T:
        """Make a call and return what the answer says."""
        attempts = self._caller.attempts()
        while True:
            try:
                return self._caller.read(call, self._caller.begin(call, attempts.left_s))
            except grpc.RpcError as error:
                if call.is_done(error.code(), attempts.failures):
                    return self._caller.read(call, None)
                pause = self._caller.pause_s(call, attempts, error)
            time.sleep(pause)

    def paged(self, call: Callable[[str], Call[Page[T]]]) -> Iterator[T]:
        """Iterate over a list whose pages `call` asks for, by their tokens, when they are due."""
        token = ""
        while True:
            page = self.made(call(token))
            yield from page.items
            token = page.next_token
            if not token:
                return

    def _followed(self, following: Following[T]) -> Iterator[T]:
        pursuit = Pursuit(self._caller, following)
        while True:
            answers, failure = pursuit.begin(), None
            try:
                for answer in answers:
                    yield from pursuit.take(answer)
                    if pursuit.is_finished:
                        return
            except (grpc.RpcError, StreamBroken) as error:
                failure = error
            finally:
                answers.cancel()
            time.sleep(pursuit.pause_s(failure))
