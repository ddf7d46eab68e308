"""Jobs of a server that searches nothing: submitted, listed, changed and deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.live import FRESH_S
from tests.made_up_run import log
from tests.postgres import shared_server
from tests.service.conftest import Served, body_of, submit


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def fields_of(error: grpc.RpcError) -> dict[str, str]:
    """Return the fields that a status finds wrong, with what it says of them."""
    (detail,) = rpc_status.from_call(error).details
    found = BadRequest()
    assert detail.Unpack(found)
    return {each.field: each.description for each in found.field_violations}


def test_a_submitted_job_is_there(search: SearchServiceStub) -> None:
    job = submit(search, body_of("first"))
    assert (job.name, job.state) == ("first", job_pb.JOB_STATE_QUEUED)
    assert "searches nothing" in job.detail
    assert json.loads(job.spec_json)["model"]["name"] == "digits_cnn"
    assert search.GetJob(pb.GetJobRequest(job="first")).job == job


def test_a_hundred_submissions_with_one_request_id_make_one_job(search: SearchServiceStub) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda _: submit(search, body_of("same"), "once"), range(100)))
    assert len({each.SerializeToString() for each in jobs}) == 1
    names = [each.name for each in search.ListJobs(pb.ListJobsRequest()).jobs]
    assert names.count("same") == 1


def test_a_request_id_serves_one_job_and_a_name_one_request(search: SearchServiceStub) -> None:
    submit(search, body_of("a"), "one")
    other = refused(lambda: submit(search, body_of("b"), "one"))
    assert other.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "'a'" in other.details()
    changed = refused(lambda: submit(search, body_of("a", seed=1), "one"))
    assert changed.code() is grpc.StatusCode.ALREADY_EXISTS
    again = refused(lambda: submit(search, body_of("a"), "two"))
    assert again.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "another name" in again.details()


def test_what_is_only_validated_is_not_there(search: SearchServiceStub) -> None:
    request = pb.SubmitJobRequest(
        request_id="x", spec_json=json.dumps(body_of("dry")), validate_only=True
    )
    assert search.SubmitJob(request).job.name == "dry"
    names = [each.name for each in search.ListJobs(pb.ListJobsRequest()).jobs]
    assert "dry" not in names


def test_all_that_is_wrong_with_a_job_is_said_at_once(search: SearchServiceStub) -> None:
    body = body_of("Bad/Name", objectives=["eror"], budget={"trials": 0}, resources={"worker": 1})
    error = refused(lambda: submit(search, body, "x"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    fields = fields_of(error)
    assert {"name", "budget.trials", "resources.worker"} <= fields.keys()
    assert "lower-case" in fields["name"]
    error = refused(lambda: submit(search, body_of("ok", objectives=["eror"]), "x"))
    assert "did you mean 'error'" in fields_of(error)["objectives.0.name"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"name": "digits_cnn", "checkpoint": "/etc/passwd"}}, "model.checkpoint"),
        ({"model": {"import": "os:system"}}, "model.import"),
        ({"data": {"name": "cifar10", "path": "/etc"}}, "data.path"),
        ({"data": {"name": "digits", "attributes": {"sex": "/etc/x.npy"}}}, "data.attributes"),
        ({"searchers": ["os:path"]}, "searchers.0"),
        ({"objectives": [{"import": "os:path"}]}, "objectives.0.import"),
        (
            {"rungs": [{"finetune_steps": 1, "distill": {"teacher": {"name": "digits_cnn",
             "checkpoint": "/x"}}}]},
            "rungs.0.distill.teacher.checkpoint",
        ),
        ({"resources": {"workers": "serial"}}, "resources.workers"),
    ],
)  # fmt: skip
def test_a_client_names_no_files_and_imports_nothing(
    search: SearchServiceStub, change: dict[str, object], field: str
) -> None:
    error = refused(lambda: submit(search, body_of("sly", **change)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in fields_of(error)


def test_jobs_are_listed_newest_first_in_pages(search: SearchServiceStub) -> None:
    names = [f"job-{number}" for number in range(7)]
    for name in names:
        submit(search, body_of(name))
    found, request = [], pb.ListJobsRequest(page_size=3)
    while True:
        response = search.ListJobs(request)
        found.append([each.name for each in response.jobs])
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
        if len(found) == 1:
            submit(search, body_of("late"))
    assert all(len(each) == 3 for each in found[:-1])
    listed = [name for page in found for name in page]
    assert listed[:7] == names[::-1]
    assert len(set(listed)) == len(listed)
    assert not search.ListJobs(pb.ListJobsRequest(states=[job_pb.JOB_STATE_FINISHED])).jobs
    forged = pb.ListJobsRequest(page_size=3, page_token="x")
    assert "page_token" in fields_of(refused(lambda: search.ListJobs(forged)))
    other = pb.ListJobsRequest(states=[job_pb.JOB_STATE_QUEUED], page_token=request.page_token)
    assert "page_token" in fields_of(refused(lambda: search.ListJobs(other)))


def test_a_job_goes_its_way(idle: Served, search: SearchServiceStub) -> None:
    """Its log is made up, as no controller is there: cancelled, resumed, finished, deleted."""
    body = body_of("way")
    submit(search, body)
    entries = log(10)
    refusal = refused(lambda: search.ResumeJob(pb.ResumeJobRequest(job="way", trials=9)))
    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert search.CancelJob(pb.CancelJobRequest(job="way")).job.state == job_pb.JOB_STATE_CANCELLED
    job = search.ResumeJob(pb.ResumeJobRequest(job="way", trials=11)).job
    assert job.state == job_pb.JOB_STATE_QUEUED
    assert json.loads(job.spec_json)["budget"]["trials"] == 11
    idle.write_log("way", body, entries[:5])
    cancelled = search.CancelJob(pb.CancelJobRequest(job="way", mode=pb.CANCEL_MODE_NOW)).job
    assert cancelled.state == job_pb.JOB_STATE_DRAINING
    refusal = refused(lambda: search.ResumeJob(pb.ResumeJobRequest(job="way")))
    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    refusal = refused(lambda: search.DeleteJob(pb.DeleteJobRequest(job="way")))
    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    idle.write_log("way", body, entries[5:])
    time.sleep(2 * FRESH_S)
    done = search.GetJob(pb.GetJobRequest(job="way", with_preparation=True)).job
    assert done.state == job_pb.JOB_STATE_FINISHED
    assert done.sequence == len(entries)
    assert done.trials == 11
    assert dict(done.trials_by_state) == {"completed": 11}
    assert 0 < done.front_size < 11
    assert 0 < done.hypervolume < 1
    assert json.loads(done.preparation_json)["num_classes"] == 10
    identity = idle.submission("way").id
    search.DeleteJob(pb.DeleteJobRequest(job="way"))
    gone = refused(lambda: search.GetJob(pb.GetJobRequest(job="way")))
    assert gone.code() is grpc.StatusCode.NOT_FOUND
    assert not (idle.directory / "jobs" / identity).exists()


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_server_that_starts_anew_knows_every_job(
    serve: Callable[..., Served], is_killed: bool
) -> None:
    served = serve("--max-jobs", "0")
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        before = submit(stub, body_of("kept"), "one")
    if is_killed:
        served.kill()
    else:
        assert served.stop() == 0
    served.start()
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        assert stub.GetJob(pb.GetJobRequest(job="kept"), wait_for_ready=True).job == before
        assert submit(stub, body_of("kept"), "one") == before


def test_logs_in_postgresql_are_read_and_deleted_with_their_job(
    serve: Callable[..., Served],
) -> None:
    served = serve("--max-jobs", "0", store=shared_server().new_database())
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        for name in ("one", "two"):
            submit(stub, body_of(name))
            served.write_log(name, body_of(name), log(10))
        assert stub.GetJob(pb.GetJobRequest(job="one")).job.trials == 11
        stub.DeleteJob(pb.DeleteJobRequest(job="one"))
        assert stub.GetJob(pb.GetJobRequest(job="two")).job.trials == 11
        submit(stub, body_of("one"))
        assert stub.GetJob(pb.GetJobRequest(job="one")).job.trials == 0
