"""Streams: everything once and in order, for those who come late, and those who come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from autoprune.contracts.store import Entry
from autoprune.run import Run
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.made_up_run import log, stored
from tests.service.conftest import PATIENCE_S, Served, body_of, submit, wait_until
from tests.service.test_jobs import refused

ENTRIES = log(40)


class Watch:
    """A stream that is read in a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self.messages: list[Any] = []
        self.error: grpc.RpcError | None = None
        self.stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def events(self) -> list[pb.JobEvent]:
        return [event for message in self.messages for event in message.events]

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(PATIENCE_S)
        assert self.is_over

    def _read(self) -> None:
        try:
            for message in self.stream:
                self.messages.append(message)
        except grpc.RpcError as error:
            self.error = error


@pytest.fixture
def begun(idle: Served, search: SearchServiceStub) -> Callable[..., dict[str, Any]]:
    """Return what submits a job and writes the first entries of its log."""

    def begin(name: str, entries: list[Entry]) -> dict[str, Any]:
        body = body_of(name)
        submit(search, body)
        if entries:
            idle.write_log(name, body, entries)
        return body

    return begin


def test_a_log_is_sent_from_its_beginning_and_as_it_grows_until_it_ends(
    idle: Served, search: SearchServiceStub, begun: Callable[..., dict[str, Any]]
) -> None:
    body = begun("stream", [])
    watches = [Watch(search.WatchJob(pb.WatchJobRequest(job="stream")))]
    for start in range(0, len(ENTRIES), 30):
        idle.write_log("stream", body, ENTRIES[start : start + 30])
        so_far = min(start + 30, len(ENTRIES))
        wait_until(lambda n=so_far: len(watches[0].events) == n, "events are missing")
        if so_far < len(ENTRIES):
            request = pb.WatchJobRequest(job="stream", after_sequence=so_far - 5)
            watches.append(Watch(search.WatchJob(request)))
    for watch in watches:
        watch.wait()
        assert watch.error is None
        first = watch.events[0].sequence
        numbers = [each.sequence for each in watch.events]
        assert numbers == list(range(first, len(ENTRIES) + 1))
        last = watch.messages[-1].heartbeat
        assert (last.sequence, last.state) == (len(ENTRIES), job_pb.JOB_STATE_FINISHED)
    assert [each.events[0].sequence for each in watches] == [
        1,
        *(start - 4 for start in range(30, len(ENTRIES), 30)),
    ]
    for event, entry in zip(watches[0].events, ENTRIES, strict=True):
        assert event.kind == entry.kind
        assert json.loads(event.body_json) == dict(entry.body)
        assert (event.trial if event.HasField("trial") else None) == entry.trial
        assert event.attempt == entry.attempt
        assert event.time.ToSeconds() > 1.7e9


def test_changes_of_a_front_add_up_to_it(
    idle: Served, search: SearchServiceStub, begun: Callable[..., dict[str, Any]], tmp_path: Any
) -> None:
    body = begun("changes", ENTRIES[:10])
    watch = Watch(search.WatchFront(pb.WatchFrontRequest(job="changes")))
    for start in range(10, len(ENTRIES), 7):
        idle.write_log("changes", body, ENTRIES[start : start + 7])
        time.sleep(0.15)  # longer than the server waits between two looks
    watch.wait()
    assert sum(each.HasField("change") for each in watch.messages) > 4
    run: Run = stored(tmp_path, body, ENTRIES)
    members: set[int] = set()
    for message in watch.messages:
        if message.HasField("change"):
            change = message.change
            assert members.issuperset(change.removed)
            members -= set(change.removed)
            added = {each.number for each in change.added}
            assert not members & added
            members |= added
            hypervolume = change.hypervolume
    assert members == {each.number for each in run.front().members}
    assert hypervolume == run.front().hypervolume()
    late = Watch(search.WatchFront(pb.WatchFrontRequest(job="changes", after_sequence=40)))
    late.wait()
    then = {each.number for each in stored_until(tmp_path, body, 40).front().members}
    (change,) = [each.change for each in late.messages if each.HasField("change")]
    assert then - set(change.removed) | {each.number for each in change.added} == members


def stored_until(tmp_path: Any, body: dict[str, Any], count: int) -> Run:
    place = tmp_path / str(count)
    place.mkdir()
    return stored(place, body, ENTRIES[:count])


def test_a_place_that_is_yet_to_come_is_refused(
    search: SearchServiceStub, begun: Callable[..., dict[str, Any]]
) -> None:
    begun("place", ENTRIES[:10])
    for call, request in (
        (search.WatchJob, pb.WatchJobRequest),
        (search.WatchFront, pb.WatchFrontRequest),
    ):
        beyond = refused(lambda c=call, r=request: list(c(r(job="place", after_sequence=11))))
        assert beyond.code() is grpc.StatusCode.OUT_OF_RANGE
        below = refused(lambda c=call, r=request: list(c(r(job="place", after_sequence=-1))))
        assert below.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_who_comes_back_after_the_server_was_killed_misses_nothing(
    serve: Callable[..., Served],
) -> None:
    served = serve("--max-jobs", "0")
    body = body_of("again")
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        submit(stub, body)
        served.write_log("again", body, ENTRIES[:50])
        watch = Watch(stub.WatchJob(pb.WatchJobRequest(job="again")))
        wait_until(lambda: len(watch.events) == 50, "events are missing")
        served.kill()
        watch.wait()
        assert watch.error is not None
        assert watch.error.code() is grpc.StatusCode.UNAVAILABLE
    served.write_log("again", body, ENTRIES[50:])
    served.start()
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        request = pb.WatchJobRequest(job="again", after_sequence=watch.events[-1].sequence)
        rest = Watch(stub.WatchJob(request, wait_for_ready=True))
        rest.wait()
    numbers = [each.sequence for each in [*watch.events, *rest.events]]
    assert numbers == list(range(1, len(ENTRIES) + 1))
