"""The real server, as a process of its own on a free port, and jobs whose logs are made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from autoprune.contracts.store import Entry
from autoprune.job.spec import Job
from autoprune.store.location import place_store
from autoprune.store.sql import SqlStore
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.registry import Registry, Submission
from tests.made_up_run import GRAPH
from tests.made_up_run import job as made_up_job

CLI = [sys.executable, "-m", "autoprune.cli.main"]
PATIENCE_S = 60.0


class Served:
    """A server's process; `start` begins another one in the same directory and at the same port."""

    def __init__(self, directory: Path, *options: str, store: str | None = None) -> None:
        self.directory = directory
        self.store = store
        self.port = 0
        self.log = directory.with_name(f"{directory.name}.log")
        self._options = options
        self.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        place = ["--dir", str(self.directory), "--port", str(self.port)]
        store = [] if self.store is None else ["--store", self.store]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*CLI, "serve", *place, *store, *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), self.log.read_text()
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self._reap()

    def stop(self) -> int:
        self.process.terminate()
        return self._reap()

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.target)

    def submission(self, name: str, tenant: str = "default") -> Submission:
        """Return what the registry's database holds of a job."""
        with Registry(self.store or self.directory / "service.sqlite") as registry:
            found = registry.find(tenant, name)
        assert found is not None
        return found

    def write_log(
        self, name: str, body: dict[str, Any], entries: Sequence[Entry], tenant: str = "default"
    ) -> None:
        """Write a log for a submitted job, or go on with it, as its controller would."""
        identity = self.submission(name, tenant).id
        directory = self.directory / "jobs" / identity
        if not directory.exists():
            aside = directory.with_name("aside")
            aside.mkdir()
            with place_store(aside, self.store, identity) as store:
                preparation = {"graph": GRAPH.to_json(), "num_classes": 10}
                spec = {"job": Job.model_validate(body).to_json(), "preparation": preparation}
                store.create_job(identity, spec)
            aside.rename(directory)
        with SqlStore(self.store or directory / "store.sqlite") as store:
            for start in range(0, len(entries), 500):
                store.append(identity, entries[start : start + 500])

    def _reap(self) -> int:
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Return what starts a server; all of them end with the test."""
    found: list[Served] = []

    def start(*options: str, store: str | None = None) -> Served:
        found.append(Served(tmp_path / f"server-{len(found)}", *options, store=store))
        return found[-1]

    yield start
    for each in found:
        if each.process.poll() is None:
            each.kill()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that searches nothing, and so needs no Ray; tests have jobs of their own names."""
    served = Served(tmp_path_factory.mktemp("idle") / "server", "--max-jobs", "0")
    yield served
    served.kill()


@pytest.fixture
def search(idle: Served) -> Iterator[SearchServiceStub]:
    with idle.channel() as channel:
        yield SearchServiceStub(channel)


@pytest.fixture
def fronts(idle: Served) -> Iterator[FrontServiceStub]:
    with idle.channel() as channel:
        yield FrontServiceStub(channel)


@pytest.fixture
def catalog(tmp_path: Path, digits_checkpoint: Path) -> Path:
    """What the server has: the trained digits network."""
    path = tmp_path / "catalog.yaml"
    model = {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)}
    path.write_text(yaml.safe_dump({"models": {"trained": model}}))
    return path


@pytest.fixture
def story() -> dict[str, Any]:
    """A small search of that network."""
    return {
        "name": "story",
        "model": {"name": "trained"},
        "data": {"name": "digits"},
        "searchers": ["nsga2"],
        "baselines": {"searchers": ["uniform"], "trials": 3},
        "rungs": [{"repair_images": 300, "images": 300}],
        "budget": {"trials": 60},
        "resources": {"workers": 1, "device": "cpu"},
    }


def submit(stub: SearchServiceStub, body: dict[str, Any], request_id: str = "") -> job_pb.Job:
    """Submit a job, under its name where there is no other request_id."""
    request = pb.SubmitJobRequest(request_id=request_id or body["name"], spec_json=json.dumps(body))
    found: job_pb.Job = stub.SubmitJob(request, timeout=PATIENCE_S).job
    return found


def body_of(name: str, **more: Any) -> dict[str, Any]:
    """Return a job that an idle server accepts; its log is made up."""
    return {**made_up_job(), "name": name, "model": {"name": "digits_cnn"}, **more}


def wait_until(is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
