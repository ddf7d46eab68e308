"""Who has jobs searched: hands them to the runner, and starts a runner anew where one ends.

    dispatcher = Dispatcher(registry, logs, address="auto", most=4, store=None)
    task = asyncio.create_task(dispatcher.run())
    dispatcher.wake()                       # somebody submitted, cancelled or resumed a job
    dispatcher.trouble                      # "" while jobs can be searched

What is wanted stands in the registry and what came of it in the logs, so that a dispatcher needs
no memory: after a restart of the server, or of Ray, it hands over whatever has not ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from autoprune.errors import StoreError
from cluster.service.child import Child
from cluster.service.live import Logs
from cluster.service.registry import Registry, Submission, Wanted
from cluster.service.state import Standing, standing_of

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LOOK_S = 2.0
# A job whose controller goes away so often in a row, without a word in the log, has failed.
_ATTEMPTS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How jobs are searched: on which Ray (None: one of this machine), how many at once, and the
    database that holds the logs (None: each lies in its job's directory).
    """

    address: str | None = None
    most: int = 4
    store: str | None = None


class Dispatcher:
    """Keeps as many unfinished jobs under way as there may be."""

    def __init__(
        self,
        registry: Registry,
        logs: Logs,
        settings: Dispatch,
        on_change: Callable[[bool], None] = lambda can_search: None,
    ) -> None:
        self.trouble = "Ray is being started"
        self._registry = registry
        self._logs = logs
        self._settings = settings
        self._on_change = on_change
        address = [] if settings.address is None else [settings.address]
        self._runner = Child("cluster.service.runner", address)
        self._taken: dict[str, Wanted] = {}  # id → what the runner was told last
        self._losses: Counter[str] = Counter()
        self._awake = asyncio.Event()

    def is_taken(self, identity: str) -> bool:
        """Say whether the runner has a job in hand."""
        return identity in self._taken

    def wake(self) -> None:
        """Look again soon: something has changed."""
        self._awake.set()

    async def standing(self, job: Submission) -> Standing:
        """Return where a job stands."""
        log = await self._logs.of(job)
        index = log.index if log is not None else None
        return standing_of(job, index, is_taken=self.is_taken(job.id), trouble=self.trouble)

    async def run(self) -> None:
        """Work until this is cancelled; then the runner is ended, and jobs go on without it."""
        pause = _FIRST_PAUSE_S
        if self._settings.most == 0:
            self._set_trouble("this server searches nothing")
            return
        try:
            while True:
                if await self._serve():
                    pause = _FIRST_PAUSE_S
                _log.warning("%s; trying again in %.0f s", self.trouble, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            await self._runner.stop()

    async def _serve(self) -> bool:
        """Start a runner and work with it until it ends; say whether it ever was ready."""
        await self._runner.start()
        orders: asyncio.Task[None] | None = None
        try:
            while (message := await self._runner.receive()) is not None:
                if "ready" in message:
                    self._set_trouble("")
                    orders = asyncio.create_task(self._give_orders())
                elif "started" in message:
                    _log.info("job %s is searched", message["started"])
                elif "ended" in message:
                    await self._settle(message["ended"], message["why"])
                self.wake()
        finally:
            if orders is not None:
                orders.cancel()
            self._taken.clear()
            self._set_trouble("Ray cannot be reached")
        return orders is not None

    def _set_trouble(self, trouble: str) -> None:
        self.trouble = trouble
        self._on_change(not trouble)

    async def _give_orders(self) -> None:
        """Hand over what is unfinished, and pass on what is wanted of what was handed over."""
        while True:
            self._awake.clear()
            try:
                await self._order_all()
            except StoreError as error:
                _log.warning("no orders are given: %s", error)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _order_all(self) -> None:
        taken, waiting = [], []
        for job in reversed(self._registry.all()):
            if self.is_taken(job.id):
                taken.append(job)
            elif job.wanted is not Wanted.DELETE and not (await self.standing(job)).has_ended:
                waiting.append(job)
        for job in (*taken, *in_turn(waiting, Counter(each.tenant for each in taken))):
            await self._order(job)

    async def _order(self, job: Submission) -> None:
        told = self._taken.get(job.id)
        if told is None:
            if job.wanted is Wanted.RUN and len(self._taken) >= self._settings.most:
                return
            self._taken[job.id] = told = Wanted.RUN
            await self._runner.send(
                {
                    "start": job.id,
                    "directory": str(self._logs.directory_of(job)),
                    "job": json.loads(job.spec),
                    "store": self._settings.store,
                }
            )
        if job.wanted is not told and job.wanted in (Wanted.DRAIN, Wanted.STOP):
            self._taken[job.id] = job.wanted
            await self._runner.send({str(job.wanted): job.id})

    async def _settle(self, identity: str, why: str) -> None:
        """Take back a job: it has ended, could not begin, or its controller is gone."""
        self._taken.pop(identity, None)
        job = self._registry.get(identity)
        if job is None or (await self.standing(job)).has_ended:
            self._losses.pop(identity, None)
            return
        has_log = await self._logs.of(job) is not None
        self._losses[identity] += 1
        if why and (not has_log or self._losses[identity] >= _ATTEMPTS):
            del self._losses[identity]
            _log.warning("job %s has failed: %s", identity, why)
            await asyncio.to_thread(self._registry.change, identity, failure=why)
        else:
            _log.warning("job %s is handed over again: %s", identity, why or "it has not ended")


def in_turn(waiting: Iterable[Submission], under_way: Mapping[str, int]) -> list[Submission]:
    """Return jobs, given the oldest first, in the order in which they are begun.

    Tenants take turns, so that many jobs of one do not keep those of others waiting;
    `under_way` counts the jobs of each tenant that are searched already.
    """
    places = Counter(under_way)
    queue = []
    for job in waiting:
        queue.append((places[job.tenant], job))
        places[job.tenant] += 1
    return [job for _, job in sorted(queue, key=lambda each: each[0])]
