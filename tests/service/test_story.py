"""The whole story, on a real Ray: submitted, watched, queried, exported, cancelled, survived."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest

from autoprune.contracts.store import EventKind
from autoprune.run import Run
from autoprune.store.history import History
from autoprune.store.location import open_store
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from tests.postgres import shared_server
from tests.service.conftest import PATIENCE_S, Served, submit, wait_until
from tests.service.test_jobs import refused
from tests.service.test_watch import Watch

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
_LONG_S = 180.0


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def served(
    request: pytest.FixtureRequest, serve: Callable[..., Served], catalog: Path
) -> Iterator[Served]:
    store = None if request.param == "SQLite" else shared_server().new_database()
    found = serve("--catalog", str(catalog), store=store)
    yield found
    found.stop()  # and with it the Ray that it started


def test_the_whole_story(served: Served, story: dict[str, Any], tmp_path: Path) -> None:
    with served.channel() as channel:
        search = SearchServiceStub(channel)
        submit(search, story)
        watch = Watch(search.WatchJob(pb.WatchJobRequest(job="story")))
        wait_until(lambda: len(watch.events) > 40, "the search does not begin", _LONG_S)
        served.kill()  # with all that it started
        watch.wait()
    assert watch.error is not None
    served.start()
    with served.channel() as channel:
        search, fronts = SearchServiceStub(channel), FrontServiceStub(channel)
        assert submit(search, story).name == "story"  # as if the answer had been lost
        seen = watch.events[-1].sequence
        request = pb.WatchJobRequest(job="story", after_sequence=seen)
        rest = Watch(search.WatchJob(request))
        submit(search, {**story, "name": "other", "budget": {"trials": 5000}})
        wait_for(served, "other", job_pb.JOB_STATE_RUNNING)
        drained = search.CancelJob(pb.CancelJobRequest(job="other")).job
        assert drained.state in (job_pb.JOB_STATE_DRAINING, job_pb.JOB_STATE_CANCELLED)
        wait_for(served, "other", job_pb.JOB_STATE_CANCELLED)
        wait_until(lambda: rest.is_over, "the search does not end", _LONG_S)
        assert rest.messages[-1].heartbeat.state == job_pb.JOB_STATE_FINISHED
        require_each_once([*watch.events, *rest.events], run_of(served, "story"))
        page = fronts.QueryFront(front_pb.QueryFrontRequest(job="story", top=1))
        assert page.trials[0].number == run_of(served, "story").select()[0].number
        require_export(fronts, run_of(served, "story"), tmp_path)
    assert not History.replay(log_of(served, "other")).pending


def test_a_network_that_cannot_be_searched_fails_with_its_reason(
    serve: Callable[..., Served], catalog: Path, story: dict[str, Any]
) -> None:
    served = serve("--catalog", str(catalog))
    with served.channel() as channel:
        search = SearchServiceStub(channel)
        submit(search, {**story, "constraints": ["macs <= 0.0001 * dense"]})
        wait_for(served, "story", job_pb.JOB_STATE_FAILED)
        job = search.GetJob(pb.GetJobRequest(job="story")).job
        assert "macs" in job.detail
        assert "Traceback" not in job.detail
        search.DeleteJob(pb.DeleteJobRequest(job="story"))
        gone = refused(lambda: search.GetJob(pb.GetJobRequest(job="story")))
        assert gone.code() is grpc.StatusCode.NOT_FOUND
    assert served.stop() == 0


def wait_for(served: Served, name: str, state: int) -> None:
    def is_there() -> bool:
        with served.channel() as channel:
            request = pb.GetJobRequest(job=name)
            found = SearchServiceStub(channel).GetJob(request, timeout=PATIENCE_S)
            return bool(found.job.state == state)

    wait_until(is_there, f"{name} does not become {job_pb.JobState.Name(state)}", _LONG_S)


def require_each_once(events: list[pb.JobEvent], run: Run) -> None:
    """Nothing is lost and nothing comes twice, on the stream and in the log."""
    numbers = [each.sequence for each in events]
    assert numbers == list(range(1, run.history.last_seq + 1))
    ends = [each.trial for each in events if each.kind == EventKind.COMPLETED]
    assert len(ends) == len(set(ends)) == len(run.completed())


def require_export(fronts: FrontServiceStub, run: Run, tmp_path: Path) -> None:
    request = front_pb.ExportTrialRequest(job="story", trial="knee", format="onnx")
    header, *chunks = fronts.ExportTrial(request, timeout=_LONG_S)
    content = b"".join(each.chunk for each in chunks)
    assert hashlib.sha256(content).hexdigest() == header.header.sha256
    assert len(content) == header.header.size_bytes
    assert header.header.trial == run.front().knee().number
    (tmp_path / "knee.onnx").write_bytes(content)
    session = onnxruntime.InferenceSession(tmp_path / "knee.onnx")
    image = np.zeros((1, *session.get_inputs()[0].shape[1:]), np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    assert logits.shape == (1, 10)


def run_of(served: Served, name: str) -> Run:
    return Run.open(served.directory / "jobs" / served.submission(name).id)


def log_of(served: Served, name: str) -> Any:
    submission = served.submission(name)
    with open_store(served.directory / "jobs" / submission.id, read_only=True) as store:
        return list(store.events(submission.id))
