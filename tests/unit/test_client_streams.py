"""Streams that break half-way: nothing is lost, twice there, or left half-written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from autoprune.contracts.store import EventKind
from autoprune.errors import ExportError, ServiceError
from cluster.client import Connection, Patience
from cluster.proto.autoprune.v1 import job_pb2
from cluster.proto.autoprune.v1.front_service_pb2 import ExportHeader, ExportTrialResponse
from cluster.proto.autoprune.v1.search_service_pb2 import (
    FrontChange,
    Heartbeat,
    JobEvent,
    WatchFrontResponse,
    WatchJobResponse,
)
from cluster.proto.autoprune.v1.trial_pb2 import TRIAL_STATE_COMPLETED, Trial
from tests.scripted_server import CLIENTS, Fail, ScriptedServer

AWAY = Fail(grpc.StatusCode.UNAVAILABLE, "away")
RUNNING, FINISHED = job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_FINISHED
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Any]:
    patience = Patience(deadline_s=1.0, reconnect_s=1.0, first_pause_s=0.01, longest_pause_s=0.05)
    with request.param(Connection(server.target), patience=patience) as client:
        yield client


def events(*numbers: int) -> WatchJobResponse:
    made = [
        JobEvent(sequence=x, kind="ASKED", trial=x, attempt=1, body_json=f'{{"n": {x}}}')
        for x in numbers
    ]
    return WatchJobResponse(events=made)


def beat(sequence: int, state: int = RUNNING, kind: Any = WatchJobResponse) -> Any:
    return kind(heartbeat=Heartbeat(sequence=sequence, state=state))


def asked(server: ScriptedServer) -> list[int]:
    return [request.after_sequence for _, request in server.calls]


def test_events_are_those_of_the_log(server: ScriptedServer, client: Any) -> None:
    opened = JobEvent(sequence=1, kind="OPENED")
    opened.time.FromMilliseconds(1500)
    server.script["WatchJob"] = [[WatchJobResponse(events=[opened]), events(2), beat(2, FINISHED)]]
    first, second = client.watch("digits")
    assert (first.seq, first.time, first.kind, first.trial) == (1, 1.5, EventKind.OPENED, None)
    assert (first.attempt, first.body) == (0, {})
    assert (second.seq, second.trial, second.attempt, second.body) == (2, 2, 1, {"n": 2})


def test_a_broken_stream_goes_on_where_it_broke(server: ScriptedServer, client: Any) -> None:
    server.script["WatchJob"] = [
        [events(4, 5), AWAY],
        [AWAY],
        [beat(5), events(6), Fail(grpc.StatusCode.CANCELLED)],
        [events(5, 6, 7)],  # more than was asked for, and no end
        [events(8), beat(8, FINISHED)],
    ]
    assert [each.seq for each in client.watch("digits", after=3)] == [4, 5, 6, 7, 8]
    assert asked(server) == [3, 5, 5, 6, 7]


def test_what_is_missing_is_asked_for_again(server: ScriptedServer, client: Any) -> None:
    server.script["WatchJob"] = [
        [events(1), events(3)],
        [events(2), beat(3, FINISHED)],  # the end came before event 3
        [events(3), beat(3, FINISHED)],
    ]
    assert [each.seq for each in client.watch("digits")] == [1, 2, 3]
    assert asked(server) == [0, 1, 2]


def test_a_stream_that_never_goes_on_is_given_up(server: ScriptedServer, client: Any) -> None:
    server.script["WatchJob"] = [[events(1)], [events(3)]]
    with pytest.raises(ServiceError, match="events after 1 are missing"):
        list(client.watch("digits"))
    server.script["WatchJob"] = [[]]
    with pytest.raises(ServiceError, match="ended before all was sent"):
        list(client.watch("digits"))


def test_patience_begins_anew_with_every_message(server: ScriptedServer, client: Any) -> None:
    # Each outage is shorter than the patience, all of them together are longer.
    outages = [[AWAY]] * 6
    server.script["WatchJob"] = [
        *(entry for x in range(1, 30) for entry in [[events(x), AWAY], *outages]),
        [beat(29, FINISHED)],
    ]
    assert [each.seq for each in client.watch("digits")] == list(range(1, 30))


def test_who_stops_watching_ends_the_stream(server: ScriptedServer, client: Any) -> None:
    ended = threading.Event()

    def endless(_: Any, context: Any) -> Any:
        context.add_callback(ended.set)
        return events(1)

    server.script["WatchJob"] = [[endless, lambda *_: ended.wait(20) and beat(1)]]
    watching = client.watch("digits")
    assert next(watching).seq == 1
    watching.close()
    assert ended.wait(10)


def change(sequence: int, *added: int, removed: tuple[int, ...] = ()) -> WatchFrontResponse:
    trials = [Trial(number=x, state=TRIAL_STATE_COMPLETED, policy_sha256="ab") for x in added]
    made = FrontChange(sequence=sequence, added=trials, removed=removed, hypervolume=0.5)
    return WatchFrontResponse(change=made)


def test_a_change_in_parts_is_told_whole_and_once(server: ScriptedServer, client: Any) -> None:
    server.script["WatchFront"] = [
        [change(0, 1, 2, removed=(9,)), AWAY],
        [change(0, 1, 2, removed=(9,)), change(5, 3), beat(7, kind=WatchFrontResponse), AWAY],
        [change(8, 4, removed=(1,)), beat(8, FINISHED, WatchFrontResponse)],
    ]
    first, second = client.watch_front("digits")
    assert [each.number for each in first.added] == [1, 2, 3]
    assert (first.sequence, first.removed, first.hypervolume) == (5, (9,), 0.5)
    assert [each.number for each in second.added] == [4]
    assert second.removed == (1,)
    assert asked(server) == [0, 0, 7]


def header(content: bytes = CONTENT, **fields: Any) -> ExportTrialResponse:
    given = {"trial": 7, "size_bytes": len(content), "max_error": 1e-6, "unit": "logits"}
    digest = hashlib.sha256(content).hexdigest()
    return ExportTrialResponse(header=ExportHeader(**{**given, "sha256": digest, **fields}))


def sent(content: bytes, size: int = 1000) -> list[ExportTrialResponse]:
    starts = range(0, len(content), size)
    return [ExportTrialResponse(chunk=content[x : x + size]) for x in starts]


def test_a_broken_export_goes_on_by_its_offset(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    server.script["ExportTrial"] = [
        [AWAY],
        [header(), *sent(CONTENT)[:4], AWAY],
        [header(), AWAY],
        [header(), *sent(CONTENT[4000:])],
    ]
    written = client.export("digits", "knee", "onnx", tmp_path / "knee.onnx")
    assert (tmp_path / "knee.onnx").read_bytes() == CONTENT
    assert (written.path, written.size_bytes) == (tmp_path / "knee.onnx", len(CONTENT))
    assert (written.max_error, written.unit) == (1e-6, "logits")
    assert list(tmp_path.iterdir()) == [tmp_path / "knee.onnx"]
    requests = server.requests("ExportTrial")
    assert [each.offset for each in requests] == [0, 0, 4000, 4000]
    # The knee may be another trial by now.
    assert [each.trial for each in requests] == ["knee", "knee", "7", "7"]
    assert {each.format for each in requests} == {"onnx"}


def test_a_file_that_was_made_anew_is_fetched_anew(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    other = CONTENT[::-1][:3000]  # shorter: nothing of the first may stay behind it
    server.script["ExportTrial"] = [
        [header(), *sent(CONTENT)[:4], AWAY],
        [header(other)],
        [header(other), *sent(other)],
    ]
    client.export("digits", 7, "onnx", tmp_path / "knee.onnx")
    assert (tmp_path / "knee.onnx").read_bytes() == other
    assert [each.offset for each in server.requests("ExportTrial")] == [0, 4000, 0]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([header(sha256="0" * 64), *sent(CONTENT)], "arrived damaged"),
        ([header(), *sent(CONTENT + b"more")], "more than the 10240 bytes"),
        ([*sent(CONTENT)], "more than the 0 bytes"),
        ([header(), *sent(CONTENT)[:4], AWAY], "away"),
    ],
)
def test_what_does_not_arrive_whole_is_not_kept(
    server: ScriptedServer, client: Any, tmp_path: Path, answers: list[Any], message: str
) -> None:
    # Afterwards it says what it is, and nothing follows.
    again = [[header(), AWAY]] if AWAY in answers else []
    server.script["ExportTrial"] = [answers, *again]
    with pytest.raises(ServiceError, match=message):
        client.export("digits", 7, "onnx", tmp_path / "knee.onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(server: ScriptedServer, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "knee.onnx"

    def appears(*_: Any) -> Any:
        path.write_text("mine")
        return header()

    server.script["ExportTrial"] = [[appears, *sent(CONTENT)]]
    for _ in range(2):  # it is there when the file has come, and from the start
        with pytest.raises(ExportError, match=r"knee\.onnx exists already"):
            client.export("digits", 7, "onnx", path)
    assert len(server.calls) == 1
    with pytest.raises(ExportError, match="does not exist; create it first"):
        client.export("digits", 7, "onnx", tmp_path / "nowhere" / "knee.onnx")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_is_a_file(server: ScriptedServer, client: Any, tmp_path: Path) -> None:
    server.script["ExportTrial"] = [[header(b"")]]
    assert client.export("digits", 7, "card", tmp_path / "card.md").size_bytes == 0
    assert (tmp_path / "card.md").read_bytes() == b""


PICTURE = b"<svg/>" * 300


def several(content: bytes = CONTENT, mark: str = "one", **fields: Any) -> ExportTrialResponse:
    return header(content, companions=[".svg", ".bin"], export_sha256=mark, **fields)


def test_files_that_belong_together_come_one_by_one(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    server.script["ExportTrial"] = [
        [several(), *sent(CONTENT)[:4], AWAY],
        [several(), *sent(CONTENT[4000:])],
        [several(PICTURE), AWAY],
        [several(PICTURE), *sent(PICTURE)],
        [several(b"")],
    ]
    written = client.export("digits", "knee", "card", tmp_path / "my knee.md")
    assert written.path == tmp_path / "my knee.md"
    assert written.others == (tmp_path / "my knee.svg", tmp_path / "my knee.bin")
    assert written.size_bytes == len(CONTENT) + len(PICTURE)
    assert [x.read_bytes() for x in (written.path, *written.others)] == [CONTENT, PICTURE, b""]
    assert set(tmp_path.iterdir()) == {written.path, *written.others}
    requests = server.requests("ExportTrial")
    assert [each.companion for each in requests] == ["", "", ".svg", ".svg", ".bin"]
    assert [each.offset for each in requests] == [0, 4000, 0, 0, 0]
    assert [each.trial for each in requests] == ["knee", "7", "7", "7", "7"]


def test_files_of_two_exports_are_never_mixed(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    other = CONTENT[::-1]
    server.script["ExportTrial"] = [
        [several(), *sent(CONTENT)],
        [several(PICTURE, "two"), *sent(PICTURE)],
        [several(other, "two"), *sent(other)],
        [several(PICTURE, "two"), *sent(PICTURE)],
        [several(b"", "two")],
    ]
    written = client.export("digits", 7, "card", tmp_path / "card.md")
    assert written.path.read_bytes() == other
    assert len(list(tmp_path.iterdir())) == 3
    asked_for = [each.companion for each in server.requests("ExportTrial")]
    assert asked_for == ["", ".svg", "", ".svg", ".bin"]


@pytest.mark.parametrize("taken", ["card.md", "card.svg", "card.bin"])
def test_no_file_beside_the_exported_one_is_overwritten(
    server: ScriptedServer, client: Any, tmp_path: Path, taken: str
) -> None:
    def appears(*_: Any) -> Any:
        (tmp_path / taken).write_text("mine")
        return ExportTrialResponse(chunk=PICTURE)

    server.script["ExportTrial"] = [
        [several(), *sent(CONTENT)],
        [several(PICTURE), appears],
        [several(b"")],
    ]
    with pytest.raises(ExportError, match=f"{taken} exists already"):
        client.export("digits", 7, "card", tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == [tmp_path / taken]
    server.script["ExportTrial"] = [[several(), *sent(CONTENT)]]
    calls = len(server.calls)
    with pytest.raises(ExportError, match=f"{taken} exists already"):  # before all is fetched
        client.export("digits", 7, "card", tmp_path / "card.md")
    assert len(server.calls) <= calls + 1
    assert (tmp_path / taken).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / taken]


@pytest.mark.parametrize(
    ("answers", "name", "error", "message"),
    [
        ([several(PICTURE, sha256="0" * 64), *sent(PICTURE)], "a.md", ServiceError, "damaged"),
        ([several(PICTURE), *sent(PICTURE[:500]), AWAY], "a.md", ServiceError, "away"),
        ([several(PICTURE), *sent(PICTURE + b"x")], "a.md", ServiceError, "more than"),
        ([], "a.svg", ExportError, "give that another ending"),
    ],
)
def test_of_files_that_belong_together_all_are_kept_or_none(
    server: ScriptedServer,
    client: Any,
    tmp_path: Path,
    answers: list[Any],
    name: str,
    error: type[Exception],
    message: str,
) -> None:
    again = [[several(PICTURE), AWAY]] if AWAY in answers else [[several(b"")]]
    server.script["ExportTrial"] = [[several(), *sent(CONTENT)], answers, *again]
    with pytest.raises(error, match=message):
        client.export("digits", 7, "card", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "companion", ["../x", "/etc/x", ".", "", "x", ".a/b", ".a.b", "." + "x" * 99]
)
def test_a_server_cannot_choose_where_files_go(
    server: ScriptedServer, client: Any, tmp_path: Path, companion: str
) -> None:
    server.script["ExportTrial"] = [[header(companions=[companion]), *sent(CONTENT)]]
    with pytest.raises(ServiceError, match="which is no ending"):
        client.export("digits", 7, "card", tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_given_its_name_leaves_nothing(
    server: ScriptedServer, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script["ExportTrial"] = [
        [several(), *sent(CONTENT)],
        [several(PICTURE), *sent(PICTURE)],
        [several(b"")],
    ]
    rename = Path.rename

    def broken(path: Path, target: Path) -> Path:
        if target.suffix == ".md":
            assert (tmp_path / "card.svg").exists()  # the main file comes last
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(ExportError, match="No space left on device"):
        client.export("digits", 7, "card", tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == []
