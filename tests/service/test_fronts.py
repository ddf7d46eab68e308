"""Queries of fronts, beside what a run in a directory says of the same log."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from autoprune import plugins
from autoprune.contracts.exporter import Chosen
from autoprune.exporters.card_exporter import Card
from autoprune.run import Run
from autoprune.seal import check_seal
from autoprune.trial import shown
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.proto.autoprune.v1 import trial_pb2 as trial_pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.made_up_run import log, stored
from tests.scripted_server import CLIENTS
from tests.service.conftest import CLI, Served, body_of, submit
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
    exports = idle.directory / "jobs" / idle.submission(JOB).id / "exports" / "onnx"
    number = run.select()[0].number
    (exports / str(number)).mkdir(parents=True)
    (exports / str(number) / "onnx.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    files = {"sizes": {"": len(content)}, "digests": {"": digest}}
    note = {"sequence": 1, "max_error": 0.5, "unit": "", **files}
    (exports / f"{number}.json").write_text(json.dumps(note))
    for offset in (0, 1000, len(content)):
        request = pb.ExportTrialRequest(job=JOB, trial=str(number), format="onnx", offset=offset)
        header, *chunks = stub.ExportTrial(request)
        assert header.header.sha256 == digest
        assert (list(header.header.companions), header.header.max_error) == ([], 0.5)
        assert header.header.size_bytes == len(content)
        assert b"".join(each.chunk for each in chunks) == content[offset:]
    for change, code in (
        ({"offset": len(content) + 1}, grpc.StatusCode.OUT_OF_RANGE),
        ({"offset": -1}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"format": "../../x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"companion": ".bin"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"format": "mlflow"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"trial": "11"}, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        options = {"job": JOB, "trial": str(number), "format": "onnx", **change}
        request = pb.ExportTrialRequest(**options)
        error = refused(lambda request=request: list(stub.ExportTrial(request)))
        assert error.code() is code


def fetched(stub: FrontServiceStub, job: str, **options: Any) -> tuple[pb.ExportHeader, bytes]:
    header, *chunks = stub.ExportTrial(pb.ExportTrialRequest(job=job, **options), timeout=60)
    content = b"".join(each.chunk for each in chunks)
    assert hashlib.sha256(content).hexdigest() == header.header.sha256
    assert len(content) == header.header.size_bytes
    return header.header, content


def test_files_that_belong_together_are_fetched_one_by_one(
    idle: Served, stub: FrontServiceStub, run: Run, tmp_path: Path
) -> None:
    knee = run.trial("knee")
    header, card = fetched(stub, JOB, trial="knee", format="card")
    assert (header.trial, list(header.companions)) == (knee.number, [".svg"])
    options = {"trial": "knee", "format": "card", "companion": ".svg"}
    beside, picture = fetched(stub, JOB, **options)
    assert beside.export_sha256 == header.export_sha256 != ""
    assert beside.sha256 != header.sha256
    assert b"](<card.svg>)" in card
    (tmp_path / "card.md").write_bytes(card)
    (tmp_path / "card.svg").write_bytes(picture)
    check_seal(tmp_path / "card.md", [tmp_path / "card.svg"])
    options["offset"] = 1000
    *_, last = stub.ExportTrial(pb.ExportTrialRequest(job=JOB, **options))
    assert picture.endswith(last.chunk)
    options["offset"] = len(picture) + 1
    request = pb.ExportTrialRequest(job=JOB, **options)
    assert refused(lambda: list(stub.ExportTrial(request))).code() is grpc.StatusCode.OUT_OF_RANGE
    for companion in (".bin", "svg", "../../../service.sqlite"):
        request = pb.ExportTrialRequest(job=JOB, trial="knee", format="card", companion=companion)
        error = refused(lambda request=request: list(stub.ExportTrial(request)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert set(fields_of(error)) == {"companion"}


def test_tables_are_of_any_trial_and_grow_with_the_log(idle: Served, body: dict[str, Any]) -> None:
    name, entries = "tables-grow", log(12, is_reported=False)[:-1]
    with idle.channel() as channel:
        stub = FrontServiceStub(channel)
        submit(SearchServiceStub(channel), {**body, "name": name})
        idle.write_log(name, body, entries[:20])
        first, table = fetched(stub, name, trial="0", format="csv")
        again, same = fetched(stub, name, trial="0", format="csv")
        assert (again, same) == (first, table)
        idle.write_log(name, body, entries[20:])
        time.sleep(0.2)  # the server looks at a log every so often
        # Who has begun gets the rest of the same file; who begins now, all that is known.
        options = pb.ExportTrialRequest(job=name, trial="0", format="csv", offset=10)
        header, *chunks = stub.ExportTrial(options)
        assert header.header == first
        assert b"".join(each.chunk for each in chunks) == table[10:]
        grown, larger = fetched(stub, name, trial="0", format="csv")
        assert grown.export_sha256 != first.export_sha256
        assert len(larger.splitlines()) == 1 + 13 > len(table.splitlines())
        failed, _ = fetched(stub, name, trial="11", format="json")
        assert failed.trial == 11
        request = pb.ExportTrialRequest(job=name, trial="11", format="card")
        error = refused(lambda: list(stub.ExportTrial(request)))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "there is nothing to say in a card" in error.details()


def test_both_clients_bring_all_files_of_an_export(
    idle: Served, stub: FrontServiceStub, run: Run, tmp_path: Path
) -> None:
    for kind in CLIENTS:
        place = tmp_path / kind.__name__
        place.mkdir()
        with kind(idle.target) as client:
            written = client.export(JOB, "knee", "card", place / "knee.md")
        assert written.path == place / "knee.md"
        assert written.others == (place / "knee.svg",)
        assert sorted(place.iterdir()) == [written.path, *written.others]
        assert written.size_bytes == sum(each.stat().st_size for each in place.iterdir())
        Card().check(Chosen(run, run.trial("knee")), written.path)


@pytest.mark.parametrize(("to", "suffix"), [("csv", ".csv"), ("json", ".json"), ("card", ".md")])
def test_what_a_job_has_found_is_written_where_it_is_asked_for(
    idle: Served, stub: FrontServiceStub, run: Run, tmp_path: Path, to: str, suffix: str
) -> None:
    here, there = tmp_path / f"my run{suffix}", tmp_path / "other" / f"my run{suffix}"
    there.parent.mkdir()
    where = [f"{JOB}@{idle.target}", "knee", "--to", to, "--format", "json"]
    done = subprocess.run(
        [*CLI, "export", *where, "--out", str(there)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["path"] == str(there)
    beside = [there.with_suffix(".svg")] if to == "card" else []
    assert json.loads(done.stdout)["others"] == [str(each) for each in beside]
    run.export(run.trial("knee"), to, here)
    same = plugins.load("exporter", to)()
    same.check(Chosen(run, run.trial("knee")), there)
    if to == "card":
        assert b"](<my run.svg>)" in there.read_bytes()
        assert there.read_bytes() == here.read_bytes()


def test_the_server_process_loads_neither_torch_nor_ray() -> None:
    look = (
        "import sys, cluster.service.server; from autoprune import plugins; "
        "kinds = [plugins.load('exporter', name) for name in plugins.names('exporter')]; "
        "assert not {'torch', 'ray'} & sys.modules.keys(), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", look], check=True)
