"""The server as a whole: health, reflection, figures, its log, and how it ends."""

from __future__ import annotations

import json
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.guard import SERVICES
from cluster.service.server import EXECUTION
from tests.made_up_run import log
from tests.postgres import free_port
from tests.service import http2
from tests.service.calls import INVALID, METHODS, figure, outcome
from tests.service.conftest import PATIENCE_S, Served, body_of, submit, wait_until

STATES = health_pb2.HealthCheckResponse
NAMES = [each.full_name for each in SERVICES]


@pytest.fixture
def health(idle: Served) -> Iterator[health_pb2_grpc.HealthStub]:
    with idle.channel() as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(name: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


def test_what_serves_is_told_from_what_does_not(health: health_pb2_grpc.HealthStub) -> None:
    for name in ("", *NAMES):
        assert health.Check(asked(name)).status == STATES.SERVING
    assert health.Check(asked(EXECUTION)).status == STATES.NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(asked("nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_is_watched_until_the_server_stops(serve: Callable[..., Served]) -> None:
    """By several: each hears of the change, whoever else has left before."""
    served = serve("--max-jobs", "0")
    with served.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(asked("")) for _ in range(3)]
        assert [next(each).status for each in watches] == [STATES.SERVING] * 3
        watches[0].cancel()
        unknown = stub.Watch(asked("nobody"))
        assert next(unknown).status == STATES.SERVICE_UNKNOWN
        served.process.terminate()
        assert [next(each).status for each in watches[1:]] == [STATES.NOT_SERVING] * 2


def test_reflection_tells_what_there_is(idle: Served) -> None:
    with idle.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest
        questions = [request(list_services="")]
        questions += [request(file_containing_symbol=name) for name in NAMES]
        listed, *files = stub.ServerReflectionInfo(iter(questions))
    found = {each.name for each in listed.list_services_response.service}
    # Whatever is served is in one of these: what is added to the server stands in SERVICES.
    open_ones = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert found == {*NAMES, *open_ones}
    assert all(each.file_descriptor_response.file_descriptor_proto for each in files)


def test_bytes_that_are_no_message_are_refused_by_open_services(idle: Served) -> None:
    with idle.channel() as channel:
        for path in (
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                next(channel.unary_stream(path, bytes, bytes)(b"\xff\xff"))
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "is no grpc." in caught.value.details()


def test_calls_are_counted(serve: Callable[..., Served]) -> None:
    port = free_port()
    served = serve("--max-jobs", "0", "--metrics-port", str(port))

    def told() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text: str = response.read().decode()
        return text

    with served.channel() as channel:
        for method in METHODS:
            outcome(channel, method, b"\xff\xff")
        stub = SearchServiceStub(channel)
        for _ in range(3):
            stub.ListJobs(pb.ListJobsRequest())
        submit(stub, body_of("counted"))
        stream = stub.WatchJob(pb.WatchJobRequest(job="counted"))
        wait_until(lambda: figure(told(), "autoprune_watchers") == 1, "nobody watches")
        under_way = 'autoprune_calls_under_way{method="WatchJob"}'
        assert figure(told(), under_way) == 1
        stream.cancel()
        wait_until(lambda: figure(told(), "autoprune_watchers") == 0, "somebody watches")
    text = told()
    assert figure(text, under_way) == 0
    assert figure(text, 'autoprune_calls_total{code="OK",method="ListJobs"}') == 3
    assert figure(text, 'autoprune_calls_total{code="CANCELLED",method="WatchJob"}') == 1
    assert figure(text, 'autoprune_call_seconds_count{method="ListJobs"}') == 4
    assert figure(text, "autoprune_jobs") == 1
    assert figure(text, "autoprune_execution_up") == 0
    for method in METHODS:
        name = f'autoprune_calls_total{{code="INTERNAL",method="{method.name}"}}'
        assert figure(text, name) == 1


def test_a_server_that_is_told_to_stop_stops(serve: Callable[..., Served]) -> None:
    """In time, with streams open, one of them of a client that reads nothing."""
    served = serve("--max-jobs", "0")
    with served.channel() as channel, ThreadPoolExecutor(1) as pool:
        stub = SearchServiceStub(channel)
        submit(stub, body_of("open"))
        served.write_log("open", body_of("open"), log(3)[:4])
        stream = stub.WatchJob(pb.WatchJobRequest(job="open"))
        assert len(next(stream).events) == 4
        with _deaf(served, "/grpc.health.v1.Health/Watch"):
            begun = time.monotonic()
            ended = pool.submit(served.stop)
            with pytest.raises(grpc.RpcError):
                list(stream)
            assert ended.result(60) == 0
            assert time.monotonic() - begun < PATIENCE_S / 2


def _deaf(served: Served, path: str) -> socket.socket:
    """Return a connection on which a stream is open whose messages have no room to come."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    no_room = http2.frame(4, 0, 0, struct.pack(">HI", 4, 0))  # SETTINGS_INITIAL_WINDOW_SIZE
    call = http2.headers(path) + http2.message(b"")
    connection.sendall(http2.PREFACE + no_room + call)
    received = b""
    while b"content-type" not in received:  # of the headers, which come with the first message
        received += connection.recv(1000)
    return connection


def test_every_line_of_the_log_is_json(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve("--max-jobs", "0")
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        submit(stub, body_of("noted"))
        evil = 'x"\n{"level": "ERROR"}\r\x1b[31m\u2028'
        found = outcome(channel, METHODS[1], pb.GetJobRequest(job=evil))
        assert found.code is INVALID
    assert served.stop() == 0
    lines = [json.loads(each) for each in served.log.read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert [each["message"] for each in lines if each["message"] != "call"] == [
        "serving",
        "stopping",
    ]
    calls = [each for each in lines if each["message"] == "call"]
    assert [each["code"] for each in calls] == ["OK", "INVALID_ARGUMENT"]
    assert {each["tenant"] for each in calls} == {"default"}
    assert "detail" in calls[1]
