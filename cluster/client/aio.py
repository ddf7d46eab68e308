"""The client of programs that run on asyncio; `Client` says what every call does.

async with AsyncClient("localhost:8470") as client:
    await client.submit("job.yaml")
    async for event in client.watch("digits"): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio

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
from cluster.client.sync import Client

if TYPE_CHECKING:
    from autoprune.job.spec import Job
    from cluster.client.remote_run import RemoteRun

T = TypeVar("T")


class AsyncClient:
    """`Client` for one event loop: the same calls, arguments and errors, to be awaited."""

    def __init__(
        self,
        connection: Connection | str,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        waiting: Callable[[AutopruneError], None] | None = None,
    ) -> None:
        self._caller = Caller(connection, patience, waiting, grpc.aio)
        self._blocking: Client | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is under way, and the connection; runs of this client are of no use then."""
        await self._caller.channel.close()
        if self._blocking is not None:
            self._blocking.close()

    async def submit(
        self,
        job: Job | Mapping[str, Any] | str | Path,
        request_id: str | None = None,
        *,
        validate_only: bool = False,
    ) -> JobStatus:
        """Submit a job; see `Client.submit`."""
        return await self.made(calls.submit(job, request_id, validate_only))

    async def job(self, name: str) -> JobStatus:
        """Look at a job."""
        return await self.made(calls.get_job(name))

    def jobs(self, states: Iterable[JobState | str] = ()) -> AsyncIterator[JobStatus]:
        """Iterate over the jobs, the newest first."""
        wanted = tuple(states)
        return self.paged(lambda token: calls.list_jobs(wanted, token))

    async def cancel(self, name: str, *, now: bool = False) -> JobStatus:
        """End a search."""
        return await self.made(calls.cancel(name, now))

    async def resume(
        self, name: str, *, trials: int | None = None, minutes: float | None = None
    ) -> JobStatus:
        """Go on with a job."""
        return await self.made(calls.resume(name, trials, minutes))

    async def delete(self, name: str) -> None:
        """Remove a job that is not running."""
        await self.made(calls.delete(name))

    def watch(self, name: str, after: int = 0) -> AsyncIterator[Event]:
        """Iterate over the events after `after`; see `Client.watch`."""
        return self._followed(EventFollowing(name, after))

    def watch_front(self, name: str, after: int = 0) -> AsyncIterator[FrontChange]:
        """Iterate over what changes on the front; see `Client.watch_front`."""
        return self._followed(FrontFollowing(name, after))

    async def query(
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
        """Ask for trials of the front; see `Client.query`."""
        request = calls.query(
            name,
            where=where,
            sort=sort,
            top=top,
            pick=pick,
            sequence=sequence,
            everything=everything,
        )
        pages = self.paged(lambda token: calls.front_page(request, token))
        return Answer.joined([page async for page in pages])

    async def explain(self, name: str, trial: str | int) -> Explanation:
        """Ask why a trial is on the front or is not."""
        return await self.made(calls.explain(name, str(trial)))

    async def export(self, name: str, trial: str | int, format: str, path: str | Path) -> Exported:
        """Fetch a trial into a new file, with those that belong to it; see `Client.export`."""
        with Download(Path(path)) as download:
            while download.missing:
                async for _ in self._followed(ExportFollowing(name, str(trial), format, download)):
                    pass
            return await asyncio.to_thread(download.finished)  # waits for the disk

    async def run(self, name: str) -> RemoteRun:
        """Return a job as a run. Its own methods wait for answers: call them in a thread."""
        caller = self._caller
        self._blocking = self._blocking or Client(caller.connection, patience=caller.patience)
        return await asyncio.to_thread(self._blocking.run, name)

    async def made(self, call: Call[T]) -> T:
        """Make a call and return what the answer says."""
        attempts = self._caller.attempts()
        while True:
            try:
                return self._caller.read(call, await self._caller.begin(call, attempts.left_s))
            except grpc.RpcError as error:
                if call.is_done(error.code(), attempts.failures):
                    return self._caller.read(call, None)
                pause = self._caller.pause_s(call, attempts, error)
            await asyncio.sleep(pause)

    async def paged(self, call: Callable[[str], Call[Page[T]]]) -> AsyncIterator[T]:
        """Iterate over a list whose pages `call` asks for, by their tokens, when they are due."""
        token = ""
        while True:
            page = await self.made(call(token))
            for item in page.items:
                yield item
            token = page.next_token
            if not token:
                return

    async def _followed(self, following: Following[T]) -> AsyncIterator[T]:
        pursuit = Pursuit(self._caller, following)
        while True:
            answers, failure = pursuit.begin(), None
            try:
                async for answer in answers:
                    for item in pursuit.take(answer):
                        yield item
                    if pursuit.is_finished:
                        return
            except (grpc.RpcError, StreamBroken) as error:
                failure = error
            finally:
                answers.cancel()
            await asyncio.sleep(pursuit.pause_s(failure))
