"""The clients against a server that fails as it is told: what is repeated, and what is raised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from autoprune.errors import (
    AccessError,
    AutopruneError,
    ExportError,
    InputError,
    JobError,
    RunError,
    ServiceError,
    Violation,
)
from cluster.client import Connection, JobState, Patience
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import job_pb2, search_service_pb2, trial_pb2
from tests.scripted_server import CLIENTS, Fail, ScriptedServer

Code = grpc.StatusCode
AWAY = Fail(Code.UNAVAILABLE, "away")
TOKEN = "autoprune_ci_verysecret"
JOB = job_pb2.Job(
    name="digits",
    state=job_pb2.JOB_STATE_RUNNING,
    spec_json='{"name": "digits"}',
    sequence=7,
    trials=3,
    trials_by_state={"completed": 2, "failed": 1},
    front_size=2,
    elapsed_seconds=1.5,
)
JOB.create_time.FromSeconds(1_700_000_000)
GOT = search_service_pb2.GetJobResponse(job=JOB)
SPEC = {"name": "digits", "model": {"name": "mlp"}}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Any]:
    patience = Patience(deadline_s=1.5, first_pause_s=0.01, longest_pause_s=0.05)
    with request.param(Connection(server.target, token=TOKEN), patience=patience) as client:
        yield client


def test_a_job_is_told_as_it_is(server: ScriptedServer, client: Any) -> None:
    server.script["GetJob"] = [GOT]
    status = client.job("digits")
    assert (status.name, status.state) == ("digits", JobState.RUNNING)
    assert status.spec == {"name": "digits"}
    assert (status.created, status.sequence, status.elapsed_s) == (1.7e9, 7, 1.5)
    assert status.trials_by_state == {"completed": 2, "failed": 1}
    assert status.hypervolume is None
    assert status.preparation is None


def test_what_is_away_is_asked_again(server: ScriptedServer, client: Any) -> None:
    server.script["GetJob"] = [AWAY, AWAY, GOT]
    assert client.job("digits").name == "digits"
    assert len(server.calls) == 3


def test_a_submission_is_the_same_in_every_attempt(server: ScriptedServer, client: Any) -> None:
    server.script["SubmitJob"] = [AWAY, AWAY, search_service_pb2.SubmitJobResponse(job=JOB)]
    client.submit(SPEC)
    client.submit(SPEC)
    first, second, third, other = server.requests("SubmitJob")
    assert first == second == third
    assert len(first.request_id) == 32
    assert other.request_id != first.request_id
    assert other.spec_json == first.spec_json
    client.submit(SPEC, "mine", validate_only=True)
    assert server.requests("SubmitJob")[-1].request_id == "mine"
    assert server.requests("SubmitJob")[-1].validate_only


def test_a_file_is_submitted_under_its_name(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    server.script["SubmitJob"] = [search_service_pb2.SubmitJobResponse(job=JOB)]
    path = tmp_path / "flowers.yaml"
    path.write_text("model: {name: mlp}")
    client.submit(path)
    assert (
        server.requests("SubmitJob")[0].spec_json == '{"model": {"name": "mlp"}, "name": "flowers"}'
    )
    with pytest.raises(InputError, match="cannot be sent as JSON"):
        client.submit({"seed": float("nan")})
    assert len(server.calls) == 1


def test_who_stays_away_is_given_up_with_advice(server: ScriptedServer, client: Any) -> None:
    server.script["GetJob"] = [AWAY]
    began = time.monotonic()
    with pytest.raises(ServiceError, match=rf"{server.target}: away; check that it runs"):
        client.job("digits")
    assert 0.5 < time.monotonic() - began < 5.0
    assert len(server.calls) > 10


def test_an_attempt_without_time_left_does_not_hide_why_others_failed(
    server: ScriptedServer, client: Any
) -> None:
    server.script["GetJob"] = [AWAY, AWAY, lambda *_: time.sleep(2.5)]
    with pytest.raises(ServiceError, match=rf"{server.target}: away; check that it runs"):
        client.job("digits")
    assert len(server.calls) == 3


def test_a_server_that_never_answers_is_given_up(server: ScriptedServer, client: Any) -> None:
    server.script["GetJob"] = [lambda *_: time.sleep(2.5)]
    began = time.monotonic()
    with pytest.raises(ServiceError, match="did not answer in time"):
        client.job("digits")
    assert time.monotonic() - began < 2.4


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_pause_is_told(server: ScriptedServer, kind: Any) -> None:
    told: list[AutopruneError] = []
    server.script["GetJob"] = [AWAY, AWAY, GOT]
    with kind(server.target, patience=Patience(first_pause_s=0.01), waiting=told.append) as client:
        client.job("digits")
    assert [type(each) for each in told] == [ServiceError] * 2


def test_a_busy_server_says_when_to_come_back(server: ScriptedServer, client: Any) -> None:
    soon = RetryInfo(retry_delay=Duration(nanos=300_000_000))
    server.script["GetJob"] = [Fail(Code.RESOURCE_EXHAUSTED, "busy", [soon]), GOT]
    began = time.monotonic()
    client.job("digits")
    assert time.monotonic() - began > 0.3
    late = RetryInfo(retry_delay=Duration(seconds=60))
    server.script["GetJob"] = [Fail(Code.RESOURCE_EXHAUSTED, "busy", [late])]
    with pytest.raises(ServiceError, match="busy"):
        client.job("digits")
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.INVALID_ARGUMENT, InputError),
        (Code.NOT_FOUND, RunError),
        (Code.ALREADY_EXISTS, RunError),
        (Code.FAILED_PRECONDITION, InputError),
        (Code.OUT_OF_RANGE, InputError),
        (Code.UNAUTHENTICATED, AccessError),
        (Code.PERMISSION_DENIED, AccessError),
        (Code.RESOURCE_EXHAUSTED, ServiceError),
        (Code.INTERNAL, ServiceError),
        (Code.UNKNOWN, ServiceError),
        (Code.ABORTED, ServiceError),
        (Code.DATA_LOSS, ServiceError),
        (Code.UNIMPLEMENTED, ServiceError),
    ],
)
def test_everything_else_is_raised_at_once(
    server: ScriptedServer, client: Any, code: Code, expected: type[AutopruneError]
) -> None:
    server.script = {"GetJob": [Fail(code)], "WatchJob": [[Fail(code)]]}
    for call in (lambda: client.job("digits"), lambda: list(client.watch("digits"))):
        if code is Code.ABORTED and len(server.calls) == 1:
            continue  # a stream that only reads is opened again
        with pytest.raises(AutopruneError, match="as the test wants it") as caught:
            call()
        assert type(caught.value) is expected
    assert len(server.calls) == (1 if code is Code.ABORTED else 2)


def test_all_violations_of_a_job_come_at_once(server: ScriptedServer, client: Any) -> None:
    fields = [
        BadRequest.FieldViolation(field="seed", description="must be 0 or more (given: -1)"),
        BadRequest.FieldViolation(field="model.name", description="unknown (given: 'x (y)')"),
        BadRequest.FieldViolation(field="space", description="a text cut short (given: {'a…)"),
        BadRequest.FieldViolation(field="data", description="this key is required"),
    ]
    details = [RetryInfo(), BadRequest(field_violations=fields)]
    server.script["SubmitJob"] = [Fail(Code.INVALID_ARGUMENT, "wrong", details)]
    with pytest.raises(JobError) as caught:
        client.submit(SPEC)
    assert caught.value.violations == (
        Violation("seed", -1, "must be 0 or more"),
        Violation("model.name", "x (y)", "unknown"),
        Violation("space", "{'a…", "a text cut short"),
        Violation("data", None, "this key is required"),
    )
    server.script["ListJobs"] = [Fail(Code.INVALID_ARGUMENT, "wrong", details)]
    with pytest.raises(InputError, match=r"seed: must be .*; data: this key is required"):
        next(client.jobs())


def test_details_that_cannot_be_read_change_nothing(server: ScriptedServer, client: Any) -> None:
    def garbled(_: Any, context: Any) -> None:
        context.set_trailing_metadata([("grpc-status-details-bin", b"\xff\xff\xff")])
        context.abort(Code.INVALID_ARGUMENT, "still said")

    server.script["GetJob"] = [garbled]
    with pytest.raises(InputError, match="still said"):
        client.job("digits")


def test_a_deletion_whose_answer_was_lost_has_happened(server: ScriptedServer, client: Any) -> None:
    server.script["DeleteJob"] = [AWAY, Fail(Code.NOT_FOUND)]
    client.delete("digits")
    with pytest.raises(RunError):
        client.delete("digits")


def test_a_token_goes_with_every_call_and_into_no_message(
    server: ScriptedServer, client: Any
) -> None:
    server.script = {"GetJob": [Fail(Code.UNAUTHENTICATED, "expired")], "WatchJob": [[AWAY]]}
    shown = []
    for call in (lambda: client.job("digits"), lambda: list(client.watch("digits"))):
        with pytest.raises(AutopruneError) as caught:
            call()
        shown.append(repr(caught.value) + repr(caught.value.__cause__))
    assert {each["authorization"] for each in server.metadata} == {f"Bearer {TOKEN}"}
    assert "takes another token" in shown[0]
    assert not any("verysecret" in each for each in shown)


def test_pages_are_fetched_when_they_are_due(server: ScriptedServer, client: Any) -> None:
    def page(request: Any, _: Any) -> Any:
        number = int(request.page_token or 0)
        jobs = [job_pb2.Job(name=f"job-{number}-{place}") for place in range(2)]
        token = str(number + 1) if number < 2 else ""
        return search_service_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

    server.script["ListJobs"] = [page]
    found = client.jobs(["running", JobState.QUEUED])
    assert [next(found).name for _ in range(3)] == ["job-0-0", "job-0-1", "job-1-0"]
    assert len(server.calls) == 2
    assert [each.name for each in found] == ["job-1-1", "job-2-0", "job-2-1"]
    assert [list(each.states) for each in server.requests("ListJobs")] == [[2, 1]] * 3
    with pytest.raises(InputError, match="did you mean 'RUNNING'"):
        next(client.jobs(["runing"]))


def test_a_query_is_asked_as_it_was_meant(server: ScriptedServer, client: Any) -> None:
    trial = trial_pb2.Trial(number=4, state=trial_pb2.TRIAL_STATE_COMPLETED, failure="", parent=0)
    trial.objectives["error"].value = 0.25
    trial.objectives["error"].low = 0.2
    goal = trial_pb2.Objective(name="error", unit="share", goal=trial_pb2.GOAL_MIN, reference=0.9)
    first = front_pb.QueryFrontResponse(
        trials=[trial], next_page_token="2", sequence=9, objectives=[goal], hypervolume=0.5
    )
    last = front_pb.QueryFrontResponse(trials=[trial], sequence=9, objectives=[goal])
    server.script["QueryFront"] = [first, last]
    answer = client.query(
        "digits", where=["macs <= 0.5*dense", "error>=0.1", "macs<=0"], sort="macs", top=3
    )
    assert [each.number for each in answer.trials] == [4, 4]
    assert (answer.sequence, answer.hypervolume) == (9, 0.5)
    assert answer.goals[0].reference == 0.9
    measured = answer.trials[0].objectives["error"]
    assert (measured.value, measured.low, measured.high) == (0.25, 0.2, None)
    assert (answer.trials[0].parent, answer.trials[0].teacher) == (0, None)
    asked, again = server.requests("QueryFront")
    assert [(x.metric, x.least, x.most, x.of_dense) for x in asked.bounds] == [
        ("macs", 0.0, 0.5, True),
        ("error", 0.1, 0.0, False),
        ("macs", 0.0, 0.0, False),
    ]
    assert [(x.HasField("least"), x.HasField("most")) for x in asked.bounds] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert (asked.sort, asked.top, asked.page_token, again.page_token) == ("macs", 3, "", "2")
    server.script["QueryFront"] = [last]
    for pick, field in (("knee", "knee"), ("best:macs", "best"), ("weights:macs=2", "weights")):
        client.query("digits", pick=pick, sequence=5)
        asked = server.requests("QueryFront")[-1]
        assert asked.pick.WhichOneof("pick") == field
        assert asked.sequence == 5
    for wrong in ({"pick": "4"}, {"where": ["macs<=dense+1"]}, {"where": ["macs"]}):
        with pytest.raises(InputError):
            client.query("digits", **wrong)


def test_an_answer_that_makes_no_sense_is_a_fault_of_the_server(
    server: ScriptedServer, client: Any
) -> None:
    server.script["GetJob"] = [search_service_pb2.GetJobResponse(job={"spec_json": "{"})]
    with pytest.raises(ServiceError, match="another version"):
        client.job("digits")


def test_what_a_job_was_resumed_with_is_sent(server: ScriptedServer, client: Any) -> None:
    server.script = {
        "ResumeJob": [search_service_pb2.ResumeJobResponse(job=JOB)],
        "CancelJob": [search_service_pb2.CancelJobResponse(job=JOB)],
    }
    client.resume("digits")
    client.resume("digits", trials=5, minutes=2.5)
    plain, full = server.requests("ResumeJob")
    assert not plain.HasField("trials")
    assert not plain.HasField("minutes")
    assert (full.trials, full.minutes) == (5, 2.5)
    client.cancel("digits")
    client.cancel("digits", now=True)
    assert [each.mode for each in server.requests("CancelJob")] == [1, 2]


def test_an_export_that_the_server_refuses_leaves_nothing(
    server: ScriptedServer, client: Any, tmp_path: Path
) -> None:
    server.script["ExportTrial"] = [[Fail(Code.FAILED_PRECONDITION, "only completed trials")]]
    with pytest.raises(ExportError, match="only completed trials"):
        client.export("digits", 3, "onnx", tmp_path / "knee.onnx")
    assert list(tmp_path.iterdir()) == []
