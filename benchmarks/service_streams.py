"""Streams and submissions: two hundred who watch, half a gigabyte, a hundred who submit at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import time
from array import array
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from autoprune.contracts.store import Entry
from autoprune.store.entries import closed
from benchmarks.service_host import Host, fronts, searches
from benchmarks.service_log import entries, job_body, write_steadily
from benchmarks.service_table import Row
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb

_JOB = "digits"
_CHANNELS = 8
_PATIENCE_S = 120.0
_WATCHERS, _RATE, _SECONDS = 200, 50, 60
_BEFORE = 2000  # events that are there when the watchers come
_SUBMISSIONS = 100
_FILE_MB, _BREAK_MB, _UNREAD = 500, 300, 8


def watchers() -> list[Row]:
    """Let two hundred streams follow a log that another process writes."""
    count = _BEFORE + _RATE * _SECONDS
    log = [*islice(entries(count), count), closed("finished")]
    with Host() as host:
        directory = host.add_job(_JOB, log[:_BEFORE])
        return asyncio.run(_watched(host, directory, log[_BEFORE:]))


async def _watched(host: Host, directory: Path, news: Sequence[Entry]) -> list[Row]:
    found = [_Watcher(_BEFORE - 1) for _ in range(_WATCHERS)]
    spawn = multiprocessing.get_context("spawn")
    writer = spawn.Process(target=write_steadily, args=(directory, news, _RATE))
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(host.channel()) for _ in range(_CHANNELS)]
        calls = [each.follow(host, channels[i % _CHANNELS]) for i, each in enumerate(found)]
        streams = asyncio.gather(*calls)
        await asyncio.gather(*(each.is_there.wait() for each in found))
        before, begun = host.processor_s(), time.perf_counter()
        writer.start()
        await streams
    share = (host.processor_s() - before) / (time.perf_counter() - begun)
    writer.join()
    last = _BEFORE + len(news)
    lost = sum(last - each.last for each in found) + sum(each.gaps for each in found)
    lags = np.concatenate([np.array(each.lags) for each in found]) * 1e3
    p50, p99 = np.percentile(lags, [50, 99])
    what = f"{_WATCHERS} streams at {_RATE} events a second for {_SECONDS} s"
    return [
        Row(f"{what}: events lost", lost, "{:.0f}", most=0, note=f"of {len(lags):,} sent"),
        Row("… sent twice", sum(each.repeats for each in found), "{:.0f}", most=0),
        Row(
            "… from the write to the client, p99",
            p99,
            "{:,.0f} ms",
            most=1000,
            note=f"p50 {p50:.0f}, longest {lags.max():.0f}; the server takes {share:.0%} of a core",
        ),
        Row(
            "… the server's memory at most",
            host.peak_mb(),
            "{:.0f} MB",
            most=300,
            note=f"beside it {host.children_mb():.0f} MB of the process that judges jobs",
        ),
    ]


class _Watcher:
    """One stream: what came of it, and how late. The first message says that it is there."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.gaps = self.repeats = 0
        self.lags = array("d")
        self.is_there = asyncio.Event()

    async def follow(self, host: Host, channel: grpc.aio.Channel) -> None:
        """Follow the log until its end."""
        request = pb.WatchJobRequest(job=_JOB, after_sequence=self.last)
        call = searches(channel).WatchJob(request, metadata=host.metadata)
        async for message in call:
            now = time.time()
            for event in message.events:
                self.repeats += event.sequence <= self.last
                self.gaps += max(0, event.sequence - self.last - 1)
                self.last = max(self.last, event.sequence)
                if self.is_there.is_set():
                    self.lags.append(now - event.time.ToNanoseconds() / 1e9)
            self.is_there.set()


def submissions() -> list[Row]:
    """Submit one job a hundred times at once."""
    with Host() as host:
        return asyncio.run(_submitted(host))


async def _submitted(host: Host) -> list[Row]:
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(host.channel()) for _ in range(_CHANNELS)]
        stubs = [searches(each) for each in channels]

        async def submit(place: int, name: str) -> int:
            request = pb.SubmitJobRequest(request_id=name, spec_json=json.dumps(job_body(name)))
            stub = stubs[place % _CHANNELS]
            answer = await stub.SubmitJob(request, metadata=host.metadata, timeout=_PATIENCE_S)
            created: int = answer.job.create_time.ToNanoseconds()
            return created

        begun = time.perf_counter()
        await submit(0, "first")
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        created = await asyncio.gather(*(submit(i, _JOB) for i in range(_SUBMISSIONS)))
        seconds = time.perf_counter() - begun
        listed = await stubs[0].ListJobs(pb.ListJobsRequest(), metadata=host.metadata)
    made = sum(each.name == _JOB for each in listed.jobs)
    assert len(set(created)) == 1, "the answers are about several jobs"
    return [
        Row(
            f"{_SUBMISSIONS} submissions at once with one request_id: jobs made",
            made,
            "{:.0f}",
            least=1,
            most=1,
            note=f"answered within {seconds:.1f} s; the first job of a server takes {first:.1f} s",
        )
    ]


def export() -> list[Row]:
    """Send half a gigabyte that an exporter has left, broken off once and resumed."""
    with Host() as host:
        directory = host.add_job(_JOB, entries(100))
        size, digest = _exported(directory / "exports")
        return asyncio.run(_downloaded(host, size, digest))


async def _downloaded(host: Host, size: int, digest: str) -> list[Row]:
    async with host.channel() as channel:
        stub = fronts(channel)
        await stub.QueryFront(front_pb.QueryFrontRequest(job=_JOB), metadata=host.metadata)
        host.forget_peak()
        before, begun = host.memory_mb(), time.perf_counter()
        request = front_pb.ExportTrialRequest(job=_JOB, trial="1", format="onnx")
        unread = [stub.ExportTrial(request, metadata=host.metadata) for _ in range(_UNREAD)]
        for each in unread:
            await each.read()
        taken = hashlib.sha256()
        there = await _taken(host, stub, taken, 0, _BREAK_MB * 10**6)
        there += await _taken(host, stub, taken, there, size)
        seconds = time.perf_counter() - begun
    assert (there, taken.hexdigest()) == (size, digest), "another file came"
    return [
        Row(
            f"export of {_FILE_MB} MB, broken off after {_BREAK_MB} MB and resumed, beside "
            f"{_UNREAD} others that nobody reads on: memory on top",
            host.peak_mb() - before,
            "{:+.0f} MB",
            most=32,
            note=f"{size / 1e6 / seconds:.0f} MB a second; size and sha256 are right",
        )
    ]


async def _taken(host: Host, stub: Any, taken: hashlib._Hash, offset: int, until: int) -> int:
    """Take in the file from an offset on, and stop once there is enough; return how many bytes."""
    request = front_pb.ExportTrialRequest(job=_JOB, trial="1", format="onnx", offset=offset)
    call = stub.ExportTrial(request, metadata=host.metadata)
    count = 0
    async for message in call:
        taken.update(message.chunk)
        count += len(message.chunk)
        if offset + count >= until:
            break
    call.cancel()
    return count


def _exported(directory: Path) -> tuple[int, str]:
    """Leave a file with its note where the server keeps exports; return its size and hash."""
    directory.mkdir()
    written, block = hashlib.sha256(), os.urandom(10**6)
    with (directory / "1.onnx").open("wb") as file:
        for place in range(_FILE_MB):
            part = place.to_bytes(8, "big") + block[8:]
            file.write(part)
            written.update(part)
    size, digest = _FILE_MB * 10**6, written.hexdigest()
    note = {"size_bytes": size, "sha256": digest, "max_error": 0.0, "unit": ""}
    (directory / "1.onnx.json").write_text(json.dumps(note))
    return size, digest
