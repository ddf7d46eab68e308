"""Thousands of jobs and messages that make no sense: no server dies of them, or is at a loss."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import yaml
from google.protobuf.message import DecodeError

from autoprune.store import entries
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.made_up_run import log
from tests.service.calls import INVALID, METHODS, OK, Method, by_name, outcome
from tests.service.conftest import Served, body_of, submit
from tests.service.wild import CANARY, FULL, damaged, sensible, wild_jobs

MOST_BYTES = 400 * 2**20
# Tells whatever is done to a file or a directory below one called `canary`.
SPY = f"""
import sys

def spy(event, arguments):
    if event.split(".")[0] in ("open", "os", "shutil", "glob", "pathlib"):
        for each in arguments:
            if "/{CANARY}/" in str(each):
                print("the canary was touched:", event, file=sys.stderr, flush=True)

sys.addaudithook(spy)
"""
full_and_quick = pytest.mark.parametrize(
    "count",
    [
        pytest.param("quick"),
        pytest.param("full", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that the server must not touch; the server's processes are spied on."""
    directory = tmp_path_factory.mktemp("outside")
    (directory / "sitecustomize.py").write_text(SPY)
    (directory / f"{CANARY}.py").write_text('open("/canary/imported")')
    (directory / CANARY).mkdir()
    file = directory / CANARY / "weights.pt"
    file.write_text("the canary's song")
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{directory}{os.pathsep}{before}"
    yield file
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def target(outside: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a job for every method; nothing of what it is sent leaves a trace."""
    directory = tmp_path_factory.mktemp("target")
    served = Served(directory / "server", "--max-jobs", "0")
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        for method in METHODS:
            if method.names_a_job:
                name = job_of(method)
                submit(stub, body_of(name))
                # Nothing can be exported, as no process is to be started thousands of times.
                made = log(3) if method.name != "ExportTrial" else [entries.opened()]
                if method.name not in ("DeleteJob", "ResumeJob"):
                    served.write_log(name, body_of(name), made)
    yield served
    served.kill()


@pytest.fixture(autouse=True)
def nothing_breaks(request: pytest.FixtureRequest, target: Served) -> Iterator[None]:
    """Whatever a test sends: the server lives, serves, stays small, and is never at a loss."""
    yield
    assert target.process.poll() is None
    with target.channel() as channel:
        assert outcome(channel, by_name["ListJobs"]).code is OK
    server = psutil.Process(target.process.pid)
    assert server.memory_info().rss < MOST_BYTES
    assert len(server.children(recursive=True)) <= 1  # the clerk
    said = target.log.read_text()
    for word in ('"ERROR"', "Traceback", "canary was touched"):
        assert word not in said, said[max(0, said.index(word) - 2000) : said.index(word) + 2000]
    found = {each.name for each in target.directory.parent.iterdir()}
    assert found == {"server", "server.log"}


def test_whoever_touches_the_canary_is_seen(outside: Path, serve: Callable[..., Served]) -> None:
    """For otherwise the other tests here would find nothing, whatever a server does."""
    catalog = outside.with_name("catalog.yaml")
    catalog.write_text(yaml.safe_dump({"imports": [CANARY]}))
    served = serve("--max-jobs", "0", "--catalog", str(catalog))
    assert served.log.read_text().count("canary was touched") == 1
    with served.channel() as channel, pytest.raises(grpc.RpcError):
        submit(SearchServiceStub(channel), FULL | {"searchers": [f"{CANARY}:Thing"]})
    assert served.log.read_text().count("canary was touched") > 1


def job_of(method: Method) -> str:
    return f"fuzz-{method.name.lower()}"


@full_and_quick
def test_jobs_are_accepted_or_refused(target: Served, outside: Path, count: str) -> None:
    number = {"quick": 400, "full": 5000}[count]
    with target.channel() as channel:
        stub = SearchServiceStub(channel)
        for text, is_valid in wild_jobs(number, outside):
            request = pb.SubmitJobRequest(request_id="x", spec_json=text, validate_only=True)
            code = outcome(channel, by_name["SubmitJob"], request)
            assert code.code in ((OK,) if is_valid else (OK, INVALID)), (text[:1000], code)
            assert code.code is OK or code.fields, text[:1000]
        submit(stub, FULL | {"name": f"valid-{count}"})


@full_and_quick
@pytest.mark.parametrize("method", METHODS, ids=lambda each: each.name)
def test_damaged_messages_are_answered(target: Served, method: Method, count: str) -> None:
    number = {"quick": 500, "full": 20_000}[count]
    rng = random.Random(method.name)
    seeds = [each.SerializeToString() for each in sensible(method, job_of(method))]
    with target.channel() as channel:
        for _ in range(number):
            sent = damaged(seeds, rng)
            code = code_of(channel, method, sent)
            if is_message(method, sent):
                assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), sent
            else:
                assert code is grpc.StatusCode.INTERNAL, sent


def code_of(channel: grpc.Channel, method: Method, sent: bytes) -> grpc.StatusCode:
    """Return how a call ends; a stream is left after its first message, or after 0.2 s."""
    if not method.is_stream:
        return outcome(channel, method, sent).code
    stream = method.on(channel)(sent, timeout=0.2)
    try:
        next(stream, None)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    finally:
        stream.cancel()
    return OK


def is_message(method: Method, sent: bytes) -> bool:
    try:
        method.kind.FromString(sent)
    except DecodeError:
        return False
    return True
