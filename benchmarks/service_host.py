"""A real server to measure: a process of its own, with TLS, a token and real stores.

with Host(core=0) as host:
    host.add_job("digits", entries)         # submitted over gRPC, then its log is written
    async with host.channel() as channel:
        await fronts(channel).QueryFront(request, metadata=host.metadata)
    host.memory_mb(), host.peak_mb()
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import grpc
import psutil

from autoprune.contracts.store import Entry
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.store.location import STORE_NAME
from autoprune.store.sql import SqlStore
from autoprune.testing.problem import small_problem
from benchmarks.service_log import job_body
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.identity import DEFAULT_TENANT, Scope, new_token
from cluster.service.registry import Registry

_PATIENCE_S = 120.0
_AT_ONCE = 5000  # entries in one append


class Host:
    """`autoprune serve` in a directory of its own, on one core where that is named.

    It searches nothing: what is measured needs no Ray. `starting_s` is how long the last start
    took.
    """

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._place = tempfile.TemporaryDirectory(prefix="autoprune-service-")
        self.directory = Path(self._place.name)
        self._certificate, self._key = _certificate(self.directory)
        tokens = self.directory / "tokens.json"
        token = new_token(tokens, "benchmark", DEFAULT_TENANT, Scope.ADMIN, None)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.port = 0
        self.starting_s = 0.0
        tls = ["--tls-cert", str(self._certificate), "--tls-key", str(self._key)]
        self._options = [*tls, "--token-file", str(tokens), "--max-jobs", "0"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._place.cleanup()

    def start(self) -> None:
        """Start the server, at the same port as before."""
        place = ["--dir", str(self.directory / "service"), "--port", str(self.port)]
        command = [sys.executable, "-m", "autoprune.cli.main", "serve", *place, *self._options]
        begun = time.perf_counter()
        with (self.directory / "log").open("ab") as log, _pinned(self._core):
            self.process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("serving "):
            raise RuntimeError((self.directory / "log").read_text())
        self.starting_s = time.perf_counter() - begun
        self.port = int(line.rpartition(":")[2])

    def stop(self) -> None:
        """Stop the server; its directory stays."""
        self.process.terminate()
        self.process.wait(_PATIENCE_S)
        self.process.stdout.close()

    def channel(self) -> grpc.aio.Channel:
        """Return a channel with a connection of its own."""
        credentials = grpc.ssl_channel_credentials(self._certificate.read_bytes())
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 * 2**20),
        ]
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=options)

    def add_job(self, name: str, entries: Iterable[Entry]) -> Path:
        """Submit a job and write its log as its controller would; return its directory."""
        asyncio.run(self._submit(name))
        with Registry(self.directory / "service" / "service.sqlite") as registry:
            identity = registry.find(DEFAULT_TENANT, name)
        assert identity is not None
        directory = self.directory / "service" / "jobs" / identity.id
        aside = directory.with_name("aside")
        aside.mkdir()
        with SqlStore(aside / STORE_NAME) as store:
            body = Job.model_validate(job_body(name)).to_json()
            store.create_job(identity.id, {"job": body, "preparation": _preparation()})
            waiting = iter(entries)
            while some := list(islice(waiting, _AT_ONCE)):
                store.append(identity.id, some)
        aside.rename(directory)
        return directory

    def memory_mb(self) -> float:
        """Return what the server has in memory; what it started does not count."""
        size: int = self.process.memory_info().rss
        return size / 1e6

    def peak_mb(self) -> float:
        """Return the most that it ever had, or had since `forget_peak`, as Linux counts it."""
        found = re.search(r"VmHWM:\s+(\d+) kB", self._proc("status").read_text())
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def forget_peak(self) -> None:
        """Begin anew with what the server has now."""
        self._proc("clear_refs").write_text("5")

    def processor_s(self) -> float:
        """Return the processor time that the server has had."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def children_mb(self) -> float:
        """Return what the processes that the server started have in memory."""
        size: int = sum(each.memory_info().rss for each in self.process.children())
        return size / 1e6

    async def _submit(self, name: str) -> None:
        async with self.channel() as channel:
            request = pb.SubmitJobRequest(request_id=name, spec_json=json.dumps(job_body(name)))
            submit = searches(channel).SubmitJob
            await submit(request, metadata=self.metadata, timeout=_PATIENCE_S)

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")


def fronts(channel: grpc.aio.Channel) -> Any:
    """Return the methods of `FrontService`."""
    return FrontServiceStub(channel)  # type: ignore[no-untyped-call]


def searches(channel: grpc.aio.Channel) -> Any:
    """Return the methods of `SearchService`."""
    return SearchServiceStub(channel)  # type: ignore[no-untyped-call]


def _preparation() -> dict[str, Any]:
    problem = small_problem()
    graph = NetworkGraph(problem.groups, problem.costs).to_json()
    return {"graph": graph, "num_classes": 10}


@contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    """Let what is started meanwhile run on one core only."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine; return its file and that of its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    command = ["openssl", "req", "-x509", *new_key, *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
