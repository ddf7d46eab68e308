"""Slow, silent and abandoned connections, and more streams than there is room for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.identity import Scope, new_token
from cluster.service.request import PROMPT_S
from tests.certificates import Authority
from tests.made_up_run import log
from tests.postgres import free_port
from tests.service import http2
from tests.service.calls import METHODS, OK, bearer, by_name, figure, outcome
from tests.service.conftest import Served, body_of, submit, wait_until

MANY = 200
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True)
class Watched:
    """A server whose figures can be read, and a client of it."""

    served: Served
    port: int
    channel: grpc.Channel

    @property
    def stub(self) -> SearchServiceStub:
        return SearchServiceStub(self.channel)

    def figure(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return figure(answer.read().decode(), name)

    def wait_for(self, watchers: int) -> None:
        wait_until(lambda: self.figure("autoprune_watchers") == watchers, "other watchers")

    def job(self, name: str, events: int) -> None:
        """Submit a job, and write the first events of its log."""
        submit(self.stub, body_of(name))
        self.served.write_log(name, body_of(name), log(3000)[:events])


@pytest.fixture
def watched(serve: Callable[..., Served]) -> Iterator[Watched]:
    port = free_port()
    served = serve("--max-jobs", "0", "--metrics-port", str(port), "--max-watchers", "20")
    with served.channel() as channel:
        yield Watched(served, port, channel)


@contextmanager
def connections(port: int, count: int, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Open connections on which each of `sent` is sent in turn, and nothing after it."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            made = socket.create_connection(("127.0.0.1", port), timeout=60)
            found.append(stack.enter_context(made))
            made.sendall(sent[number % len(sent)])
        yield found


def wait_for_end(connection: socket.socket) -> None:
    """Read until the other side has closed a connection."""
    try:
        while connection.recv(2**16):
            pass
    except ConnectionResetError:
        pass


def is_served(channel: grpc.Channel, **options: Any) -> bool:
    begun = time.monotonic()
    found = outcome(channel, by_name["ListJobs"], **options)
    return found.code is OK and time.monotonic() - begun < 5.0


def test_silent_connections_are_dropped_and_cost_nobody_anything(
    watched: Watched, serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Without TLS, with it, and for figures: they send nothing, or a part of what comes first."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    secured = serve("--max-jobs", "0", "--tls-cert", str(cert), "--tls-key", str(key))
    trusted = grpc.ssl_channel_credentials(authority.path.read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32  # of 512 bytes
    halves = (b"", http2.PREFACE[:7], http2.PREFACE, http2.greeting()[:-4], hello)
    begun = time.monotonic()
    with (
        grpc.secure_channel(secured.target, trusted, options) as channel,
        connections(watched.served.port, MANY, *halves) as silent,
        connections(secured.port, MANY, b"", hello[:3], hello, http2.greeting()) as unheard,
        connections(watched.port, MANY, b"", b"GET /metrics HTTP/1.1\r\n") as curious,
    ):
        for each in (watched.channel, channel):
            assert is_served(each)
        watched.wait_for(0)  # as its figures say
        for connection in [*silent, *unheard, *curious]:
            wait_for_end(connection)
        assert time.monotonic() - begun < 30.0
        for each in (watched.channel, channel):
            assert is_served(each)


def test_nobody_waits_for_requests_that_do_not_come(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Whoever has no token is sent away before his request has come."""
    file = tmp_path / "tokens.json"
    token = new_token(file, "ci", "north", Scope.ADMIN, None)
    served = serve("--max-jobs", "0", "--token-file", str(file))
    calls = [http2.greeting() + http2.headers(method.path) for method in METHODS]
    begun = time.monotonic()
    with connections(served.port, len(METHODS), *calls) as unknown:
        for each in unknown:
            assert b"a token is needed" in http2.answer(each)
    assert time.monotonic() - begun < PROMPT_S / 2
    known = [(b"authorization", f"Bearer {token}".encode())]
    calls = [http2.greeting() + http2.headers(method.path, known) for method in METHODS]
    with served.channel() as channel, connections(served.port, len(METHODS), *calls) as slow:
        assert is_served(channel, headers=bearer(token))
        for each in slow:
            assert b"no request has come" in http2.answer(each)
    assert PROMPT_S - 1 < time.monotonic() - begun < 3 * PROMPT_S


def test_open_services_cannot_use_up_the_server(idle: Served) -> None:
    """More watch its health than may: they are refused, and those with jobs are served."""
    with ExitStack() as stack, idle.channel() as channel:
        found = []
        for _ in range(6):
            other = stack.enter_context(idle.channel())
            stub = health_pb2_grpc.HealthStub(other)
            found += [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
        codes = [_first_code(each) for each in found]
        assert codes.count(OK) == 500
        assert codes.count(EXHAUSTED) == 100
        assert is_served(channel)
        for each in found:
            each.cancel()
        stub = health_pb2_grpc.HealthStub(channel)
        wait_until(lambda: _first_code(stub.Watch(health_pb2.HealthCheckRequest())) is OK, "full")


def _first_code(stream: Any) -> grpc.StatusCode:
    try:
        next(stream)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return OK


def test_streams_that_nobody_reads_are_let_go_with_their_client(watched: Watched) -> None:
    watched.job("unread", 3000)
    server = psutil.Process(watched.served.process.pid)
    before = server.memory_info().rss
    with watched.served.channel() as other:
        stub = SearchServiceStub(other)
        streams = [stub.WatchJob(pb.WatchJobRequest(job="unread")) for _ in range(8)]
        watched.wait_for(8)
        assert is_served(watched.channel)
        assert server.memory_info().rss < before + 100 * 2**20
        assert all(each.is_active() for each in streams)
    watched.wait_for(0)


CLIENT = """
import sys, grpc
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
stub = SearchServiceStub(grpc.insecure_channel(sys.argv[1]))
streams = [stub.WatchJob(pb.WatchJobRequest(job="killed")) for _ in range(5)]
streams += [stub.WatchFront(pb.WatchFrontRequest(job="killed")) for _ in range(4)]
for each in streams:
    next(each)
print("watching", flush=True)
for each in streams[0]:
    pass
"""


def test_streams_of_clients_that_are_killed_are_let_go(watched: Watched) -> None:
    watched.job("killed", 10)
    for _ in range(2):
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, watched.served.target],
            stdout=subprocess.PIPE,
            text=True,
        )
        with client:
            assert client.stdout is not None
            assert client.stdout.readline() == "watching\n"
            watched.wait_for(9)
            client.kill()
        watched.wait_for(0)
    assert is_served(watched.channel)


def test_a_tenant_takes_half_of_the_streams_at_most(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    headers = {x: bearer(new_token(file, x, x, Scope.ADMIN, None)) for x in ("a", "b", "c")}
    served = serve("--max-jobs", "0", "--max-watchers", "6", "--token-file", str(file))
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        for tenant, own in headers.items():
            submit_as(stub, own)
            served.write_log("job", body_of("job"), log(3)[:4], tenant=tenant)

        def watch(tenant: str) -> Any:
            request = pb.WatchJobRequest(job="job")
            return stub.WatchJob(request, metadata=headers[tenant], timeout=60)

        first = [watch("a") for _ in range(4)]
        assert [_first_code(each) for each in first] == [OK, OK, OK, EXHAUSTED]
        second = [watch("b") for _ in range(4)]
        assert [_first_code(each) for each in second] == [OK, OK, OK, EXHAUSTED]
        refused = watch("c")
        assert _first_code(refused) is EXHAUSTED  # all are taken
        assert retry_after_s(refused) > 0
        first[0].cancel()
        wait_until(lambda: _first_code(watch("c")) is OK, "no room for another")


def submit_as(stub: SearchServiceStub, headers: Any) -> None:
    request = pb.SubmitJobRequest(request_id="x", spec_json=_spec("job"))
    stub.SubmitJob(request, metadata=headers, timeout=60)


def _spec(name: str) -> str:
    return json.dumps(body_of(name))


def retry_after_s(error: Any) -> float:
    (detail,) = rpc_status.from_call(error).details
    found = RetryInfo()
    assert detail.Unpack(found)
    seconds: float = found.retry_delay.ToTimedelta().total_seconds()
    return seconds


def test_impatient_clients_do_not_cost_the_judge(idle: Served) -> None:
    """A job that nobody waits for is judged all the same, and by the same process."""
    with idle.channel() as channel:
        stub = SearchServiceStub(channel)
        submit(stub, body_of("patient"))
        clerk = clerks(idle)
        assert len(clerk) == 1
        request = pb.SubmitJobRequest(request_id="x", spec_json=_spec("hasty"), validate_only=True)
        for _ in range(30):
            with pytest.raises(grpc.RpcError) as caught:
                stub.SubmitJob(request, timeout=0.003)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        submit(stub, body_of("patient-too"))
        assert clerks(idle) == clerk


def clerks(served: Served) -> set[int]:
    children = psutil.Process(served.process.pid).children(recursive=True)
    return {each.pid for each in children if each.status() != psutil.STATUS_ZOMBIE}
