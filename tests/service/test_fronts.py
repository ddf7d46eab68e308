"""Queries of fronts, beside what a run in a directory says of the same log."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from autoprune.run import Run
from autoprune.trial import shown
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.proto.autoprune.v1 import trial_pb2 as trial_pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.made_up_run import log, stored
from tests.service.conftest import Served, body_of, submit
from tests.service.test_jobs import fields_of, refused

ENTRIES = log(120, rungs=2)
JOB = "fronts"


@pytest.fixture(scope="module")
def body() -> dict[str, Any]:
    return body_of(JOB, objectives=["error", "macs"], rungs=[{}, {}], significance=0.05)


@pytest.fixture(scope="module")
def stub(idle: Served, body: dict[str, Any]) -> FrontServiceStub:
    channel = idle.channel()
    submit(SearchServiceStub(channel), body)
    idle.write_log(JOB, body, ENTRIES)
    return FrontServiceStub(channel)


@pytest.fixture
def run(tmp_path: Path, body: dict[str, Any]) -> Run:
    return stored(tmp_path, body, ENTRIES)


def query(stub: FrontServiceStub, **options: Any) -> pb.QueryFrontResponse:
    found: pb.QueryFrontResponse = stub.QueryFront(pb.QueryFrontRequest(job=JOB, **options))
    return found


def numbers(response: pb.QueryFrontResponse) -> list[int]:
    return [each.number for each in response.trials]


def test_the_front_is_that_of_the_run(stub: FrontServiceStub, run: Run) -> None:
    found = query(stub)
    assert numbers(found) == [each.number for each in run.select()]
    assert found.hypervolume == run.front().hypervolume()
    assert found.sequence == len(ENTRIES)
    assert found.total_size == len(found.trials)
    assert [(x.name, x.reference) for x in found.objectives] == [
        (goal.name, goal.reference) for goal in run.goals
    ]
    trial, message = run.select()[0], found.trials[0]
    assert message.state == trial_pb.TRIAL_STATE_COMPLETED
    assert message.policy_sha256 == trial.policy.sha256
    assert (message.searcher, message.rung, message.parent) == (
        trial.searcher,
        trial.rung,
        trial.parent,
    )
    assert trial.evaluation
    assert trial.report
    for values, evaluation in (
        (message.objectives, trial.evaluation),
        (message.report, trial.report),
    ):
        assert {x: each.value for x, each in values.items()} == {
            x: each.value for x, each in evaluation.measurements.items()
        }
    assert not message.policy_json


def test_bounds_sorts_and_tops_are_those_of_the_run(stub: FrontServiceStub, run: Run) -> None:
    dense = run.dense
    assert dense is not None
    most = 0.6 * shown(dense).value("macs")
    wanted = run.select(where=[f"macs<={most}"], sort="error", top=3)
    for bound in (
        pb.Bound(metric="macs", most=most),
        pb.Bound(metric="macs", most=0.6, of_dense=True),
    ):
        found = query(stub, bounds=[bound], sort="error", top=3)
        assert numbers(found) == [each.number for each in wanted]
    least = pb.Bound(metric="error", least=0.1)
    wanted = run.select(everything=True, where=["error>=0.1"], sort="size_bytes")
    found = query(stub, bounds=[least], sort="size_bytes", everything=True, page_size=1000)
    assert numbers(found) == [each.number for each in wanted]
    assert len(wanted) > 10


def test_picks_are_those_of_the_run(stub: FrontServiceStub, run: Run) -> None:
    weights = {"error": 3.0, "macs": 1.0}
    for pick, text in (
        (pb.Pick(knee=True), "knee"),
        (pb.Pick(best="macs"), "best:macs"),
        (pb.Pick(weights=pb.Weights(weights=weights)), "weights:error=3,macs=1"),
    ):
        wanted = run.trial(text).number
        assert numbers(query(stub, pick=pick)) == [wanted]
        assert stub.GetTrial(pb.GetTrialRequest(job=JOB, trial=text)).trial.number == wanted


def test_pages_are_one_front_though_the_log_grows(idle: Served) -> None:
    body = body_of("growing")
    with idle.channel() as channel:
        submit(SearchServiceStub(channel), body)
        stub = FrontServiceStub(channel)
        entries = log(120, is_reported=False)
        idle.write_log("growing", body, entries[:100])
        request = pb.QueryFrontRequest(job="growing", page_size=3)
        first = stub.QueryFront(request)
        found = numbers(first)
        idle.write_log("growing", body, entries[100:])
        token = first.next_page_token
        while token:
            request.page_token = token
            page = stub.QueryFront(request)
            assert page.sequence == 100
            found += numbers(page)
            token = page.next_page_token
        then = stub.QueryFront(pb.QueryFrontRequest(job="growing", sequence=100))
        assert found == numbers(then)
        assert len(found) == first.total_size > 3
        request.sort = "macs"
        assert "page_token" in fields_of(refused(lambda: stub.QueryFront(request)))


def test_the_front_as_of_any_event_is_that_of_the_log_until_then(
    stub: FrontServiceStub, tmp_path: Path, body: dict[str, Any]
) -> None:
    for sequence in (1, 3, 60, 200, len(ENTRIES) - 20):
        place = tmp_path / str(sequence)
        place.mkdir()
        then = stored(place, body, ENTRIES[:sequence])
        found = query(stub, sequence=sequence)
        assert numbers(found) == [each.number for each in then.select()]
        assert (found.hypervolume if found.HasField("hypervolume") else None) == (
            then.front().hypervolume()
        )
        for message, trial in zip(found.trials, then.select(), strict=True):
            assert bool(message.report) == (trial.report is not None)
    beyond = refused(lambda: query(stub, sequence=len(ENTRIES) + 1))
    assert beyond.code() is grpc.StatusCode.OUT_OF_RANGE


def test_a_field_mask_says_which_fields_come(stub: FrontServiceStub, run: Run) -> None:
    found = query(stub, field_mask={"paths": ["number", "policy_json"]}, top=2)
    for message, trial in zip(found.trials, run.select()[:2], strict=True):
        assert json.loads(message.policy_json) == trial.policy.to_json()
        assert {each.name for each, _ in message.ListFields()} <= {"number", "policy_json"}
    whole = query(stub, field_mask={"paths": ["*"]}, top=1).trials[0]
    evaluation = run.select()[0].evaluation
    assert evaluation is not None
    assert json.loads(whole.evaluation_json) == evaluation.to_json()
    unknown = refused(lambda: query(stub, field_mask={"paths": ["nothing"]}))
    assert "policy_json" in fields_of(unknown)["field_mask"]


def test_all_trials_are_listed_in_pages(stub: FrontServiceStub, run: Run) -> None:
    request, found = pb.ListTrialsRequest(job=JOB, page_size=50), []
    while True:
        page = stub.ListTrials(request)
        found += [(each.number, each.state, each.failure) for each in page.trials]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [each[0] for each in found] == [each.number for each in run.trials()]
    failed = pb.ListTrialsRequest(job=JOB, states=[trial_pb.TRIAL_STATE_FAILED])
    wanted = [each for each in found if each[1] == trial_pb.TRIAL_STATE_FAILED]
    assert wanted
    assert [(x.number, x.state, x.failure) for x in stub.ListTrials(failed).trials] == wanted
    assert "signal 11" in wanted[0][2]


def test_a_trial_is_explained_as_show_does(stub: FrontServiceStub, run: Run) -> None:
    for trial in run.trials()[::9]:
        found = stub.ExplainTrial(pb.ExplainTrialRequest(job=JOB, trial=str(trial.number)))
        assert json.loads(found.details_json) == json.loads(json.dumps(run.show_json(trial)))
        assert list(found.dominated_by) == run.show_json(trial)["dominated_by"]
        members = [each.number for each in run.front().members]
        assert found.on_front == (trial.number in members)
    infeasible = stub.ExplainTrial(pb.ExplainTrialRequest(job=JOB, trial="13"))
    assert list(infeasible.violations) == ["macs <= 1"]


def test_what_makes_no_sense_is_said_field_by_field(stub: FrontServiceStub) -> None:
    bounds = [pb.Bound(metric="mac", most=1.0), pb.Bound(metric="macs", least=float("nan"))]
    error = refused(lambda: query(stub, bounds=bounds, sort="speed", top=-1))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(fields_of(error)) == {"bounds.0.metric", "bounds.1.least", "sort", "top"}
    for trial, code in (
        ("999999", grpc.StatusCode.NOT_FOUND),
        ("../../etc/passwd", grpc.StatusCode.INVALID_ARGUMENT),
        ("best:speed", grpc.StatusCode.INVALID_ARGUMENT),
        ("weights:error=nan", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request = pb.GetTrialRequest(job=JOB, trial=trial)
        assert refused(lambda request=request: stub.GetTrial(request)).code() is code
    unborn = pb.QueryFrontRequest(job="nobody")
    assert refused(lambda: stub.QueryFront(unborn)).code() is grpc.StatusCode.NOT_FOUND


def test_an_exported_file_is_sent_whole_or_from_an_offset(
    idle: Served, stub: FrontServiceStub, run: Run
) -> None:
    """The file lies there already: making one takes a real search."""
    content = bytes(range(256)) * 4000
    exports = idle.directory / "jobs" / idle.submission(JOB).id / "exports"
    exports.mkdir()
    number = run.select()[0].number
    (exports / f"{number}.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    note = {"size_bytes": len(content), "sha256": digest, "max_error": 0.5, "unit": ""}
    (exports / f"{number}.onnx.json").write_text(json.dumps(note))
    for offset in (0, 1000, len(content)):
        request = pb.ExportTrialRequest(job=JOB, trial=str(number), format="onnx", offset=offset)
        header, *chunks = stub.ExportTrial(request)
        assert header.header.sha256 == digest
        assert header.header.size_bytes == len(content)
        assert b"".join(each.chunk for each in chunks) == content[offset:]
    for change, code in (
        ({"offset": len(content) + 1}, grpc.StatusCode.OUT_OF_RANGE),
        ({"offset": -1}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"format": "../../x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"trial": "11"}, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        options = {"job": JOB, "trial": str(number), "format": "onnx", **change}
        request = pb.ExportTrialRequest(**options)
        error = refused(lambda request=request: list(stub.ExportTrial(request)))
        assert error.code() is code


def test_the_server_process_loads_neither_torch_nor_ray() -> None:
    look = (
        "import sys, cluster.service.server; "
        "assert not {'torch', 'ray'} & sys.modules.keys(), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", look], check=True)
