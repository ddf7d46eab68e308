"""Queries of a front: how many a second, how long each takes, and the first one of a long log."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from autoprune.contracts.store import Entry
from benchmarks.service_host import Host, fronts
from benchmarks.service_log import GOALS, entries, write_steadily
from benchmarks.service_table import Row
from cluster.proto.autoprune.v1 import front_service_pb2 as pb

_CLIENTS, _CHANNELS = 16, 4
_PAGE, _LARGEST_PAGE = 100, 1000
_WARM_S, _SECONDS = 3.0, 10.0
_TRIALS, _LONG = 10_000, 100_000
_RATE, _NEWS = 50, 700  # events a second while the search goes on, and of all of that time
_CHECKED, _TURNED = 0.02, 0.5  # of answers: those that are compared, those with a second page
_JOB = "digits"
_PATIENCE_S = 60.0


def queries() -> list[Row]:
    """Ask a server on one core, from another one, for a hundred trials at a time."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    log = list(entries(_TRIALS + _NEWS // 2))[:-1]  # without its end
    with Host(core=cores[0]) as host:
        directory = host.add_job(_JOB, log[:-_NEWS])
        return asyncio.run(_queries(host, directory, log[-_NEWS:]))


def first_query() -> list[Row]:
    """Ask a server that has just been started for the front of a long log."""
    with Host() as host:
        host.add_job(_JOB, entries(_LONG))
        host.stop()
        host.start()
        before = host.memory_mb()
        busy = host.processor_s()
        seconds, size = asyncio.run(_first(host))
        busy = host.processor_s() - busy
        what = f"first query of a job with {_LONG:,} trials"
        note = f"{busy:.2f} s of processor time; a front of {size:,}"
        start = Row("a server's start, with such a job", host.starting_s, "{:.1f} s")
        first = Row(what, seconds, "{:.2f} s", most=3.0, note=note)
        memory = f"{before:.0f} before it"
        return [start, first, Row("… memory at most", host.peak_mb(), "{:.0f} MB", note=memory)]


async def _first(host: Host) -> tuple[float, int]:
    async with host.channel() as channel:
        await channel.channel_ready()
        ask = fronts(channel).QueryFront
        request = pb.QueryFrontRequest(job=_JOB)
        begun = time.perf_counter()
        found = await ask(request, metadata=host.metadata, timeout=_PATIENCE_S)
        return time.perf_counter() - begun, found.total_size


async def _queries(host: Host, directory: Path, news: Sequence[Entry]) -> list[Row]:
    writer = multiprocessing.get_context("spawn").Process(
        target=write_steadily, args=(directory, news, _RATE)
    )
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(host.channel()) for _ in range(_CHANNELS)]
        values = await _pages(host, channels[0], everything=False)
        front, moving = _Questions(values), _Questions(values, is_settled=False)
        every = _Questions(await _pages(host, channels[0], everything=True), everything=True)
        varied = await _Load(host, front).figures(channels)
        same = await _Load(host, front, front.new(random.Random(0))).figures(channels)
        wide = await _Load(host, every).figures(channels)
        writer.start()
        growing = await _Load(host, moving).figures(channels)
    writer.join()
    what = f"{_PAGE} trials of the front of {len(values)} of a job with {_TRIALS:,} trials"
    return [
        *varied.rows(f"{what}, every query another", least=1000, most=50),
        *growing.rows(f"… while the search writes {_RATE} events a second"),
        *same.rows("… one and the same query"),
        *wide.rows(f"{_PAGE} of all completed trials, every query another"),
    ]


class _Questions:
    """Queries about trials whose `values` (n, goals) are known: bounds of metrics, in any order.

    Where the trials are not settled, answers are not compared, and bounds leave more of them.
    """

    def __init__(
        self, values: np.ndarray, *, everything: bool = False, is_settled: bool = True
    ) -> None:
        self._values = values
        self._everything = everything
        self._is_settled = is_settled

    def new(self, draw: random.Random) -> pb.QueryFrontRequest:
        """Return a query that at least one page of trials meets, unlike all before."""
        fewest = _PAGE if self._is_settled else 2 * _PAGE
        while True:
            request = pb.QueryFrontRequest(
                job=_JOB, sort=draw.choice(GOALS), page_size=_PAGE, everything=self._everything
            )
            for name in draw.sample(GOALS, draw.choice((1, 2))):
                bound = draw.choice(self._values[:, GOALS.index(name)]) * draw.uniform(1.0, 1.01)
                request.bounds.add(metric=name, most=bound)
            if len(self._meeting(request)) >= fewest:
                return request

    def check(self, request: pb.QueryFrontRequest, answer: pb.QueryFrontResponse) -> None:
        """Raise `AssertionError` where an answer to a first page is not the right one."""
        if not self._is_settled:
            return
        expected = np.sort(self._meeting(request)[:, GOALS.index(request.sort)])[:_PAGE]
        found = [trial.objectives[request.sort].value for trial in answer.trials]
        assert found == expected.tolist(), f"a wrong answer to {request}"

    def _meeting(self, request: pb.QueryFrontRequest) -> np.ndarray:
        meets = np.ones(len(self._values), dtype=bool)
        for bound in request.bounds:
            meets &= self._values[:, GOALS.index(bound.metric)] <= bound.most
        found: np.ndarray = self._values[meets]
        return found


@dataclass(frozen=True, slots=True)
class _Figures:
    """The milliseconds of every query, and the server's processor seconds meanwhile."""

    laps_ms: np.ndarray
    busy_s: float

    def rows(
        self, what: str, *, least: float | None = None, most: float | None = None
    ) -> list[Row]:
        """Return what was measured, beside what it should be."""
        p50, p99 = np.percentile(self.laps_ms, [50, 99])
        count = len(self.laps_ms)
        each = f"{1e3 * self.busy_s / count:.2f} ms of the server's processor each"
        return [
            Row(what, count / _SECONDS, "{:,.0f} a second", least=least, note=each),
            Row("… p99", p99, "{:.0f} ms", most=most, note=f"p50 {p50:.0f} ms"),
        ]


class _Load:
    """Clients that ask one query after the other; without `request` always another one."""

    def __init__(
        self, host: Host, questions: _Questions, request: pb.QueryFrontRequest | None = None
    ) -> None:
        self._host = host
        self._questions = questions
        self._request = request
        self._laps: list[float] = []
        self._begin = time.perf_counter() + _WARM_S
        self._end = self._begin + _SECONDS

    async def figures(self, channels: Sequence[grpc.aio.Channel]) -> _Figures:
        """Let all clients ask, and return what was measured once the server was warm."""
        clients = (self._ask(channels[i % len(channels)], i) for i in range(_CLIENTS))
        busy = asyncio.create_task(self._busy_s())
        await asyncio.gather(*clients)
        return _Figures(1e3 * np.array(self._laps), await busy)

    async def _ask(self, channel: grpc.aio.Channel, seed: int) -> None:
        """Be one client until the time is over."""
        ask = fronts(channel).QueryFront
        draw = random.Random(seed)
        second_page = None
        while (now := time.perf_counter()) < self._end:
            request = second_page or self._request or self._questions.new(draw)
            begun = time.perf_counter()
            answer = await ask(request, metadata=self._host.metadata, timeout=_PATIENCE_S)
            if now >= self._begin:
                self._laps.append(time.perf_counter() - begun)
            assert len(answer.trials) == _PAGE
            if second_page is None and draw.random() < _CHECKED:
                self._questions.check(request, answer)
            is_first = second_page is None and self._request is None
            second_page = _next(request, answer) if is_first and draw.random() < _TURNED else None

    async def _busy_s(self) -> float:
        await asyncio.sleep(self._begin - time.perf_counter())
        before = self._host.processor_s()
        await asyncio.sleep(self._end - time.perf_counter())
        return self._host.processor_s() - before


def _next(
    request: pb.QueryFrontRequest, answer: pb.QueryFrontResponse
) -> pb.QueryFrontRequest | None:
    """Return the query for the second page, where that one is full as well."""
    if answer.total_size < 2 * _PAGE:
        return None
    following = pb.QueryFrontRequest()
    following.CopyFrom(request)
    following.page_token = answer.next_page_token
    return following


async def _pages(host: Host, channel: grpc.aio.Channel, *, everything: bool) -> np.ndarray:
    """Return the values (n, goals) of the front, or of all completed trials."""
    ask = fronts(channel).QueryFront
    request = pb.QueryFrontRequest(job=_JOB, everything=everything, page_size=_LARGEST_PAGE)
    values = []
    while True:
        answer = await ask(request, metadata=host.metadata, timeout=_PATIENCE_S)
        values += [[each.objectives[x].value for x in GOALS] for each in answer.trials]
        if not answer.next_page_token:
            return np.array(values)
        request.page_token = answer.next_page_token
