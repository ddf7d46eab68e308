"""A server beside a Ray that goes and comes, and a Ray whose server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray.cluster_utils import Cluster

from autoprune.contracts.store import EventKind
from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import job_pb2 as job_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub
from cluster.service.server import EXECUTION
from tests.postgres import free_port
from tests.service.conftest import Served, submit, wait_until
from tests.service.test_story import log_of, run_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
_LONG_S = 180.0


@pytest.fixture
def start_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Cluster]]:
    """Return what starts a Ray, each time at the same address; this process is no part of it."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    found: list[Cluster] = []

    def start() -> Cluster:
        arguments = {"num_cpus": 2, "include_dashboard": False, "gcs_server_port": port}
        found.append(Cluster(initialize_head=True, head_node_args=arguments))
        return found[-1]

    yield start
    for each in found:
        each.shutdown()


def can_search(served: Served) -> bool:
    with served.channel() as channel:
        request = health_pb2.HealthCheckRequest(service=EXECUTION)
        status = health_pb2_grpc.HealthStub(channel).Check(request).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def test_a_search_goes_on_without_its_server_and_is_resumed_when_ray_is_back(
    serve: Callable[..., Served],
    catalog: Path,
    story: dict[str, Any],
    start_ray: Callable[[], Cluster],
) -> None:
    ray = start_ray()
    served = serve("--catalog", str(catalog), "--ray", ray.address)
    with served.channel() as channel:
        submit(SearchServiceStub(channel), {**story, "budget": {"trials": 3000}})
    wait_for(served, "story", job_pb.JOB_STATE_RUNNING)
    wait_until(lambda: trials(served) > 5, "no trials", _LONG_S)
    served.kill()
    before = trials(served)
    wait_until(lambda: trials(served) > before + 10, "it stands without its server", _LONG_S)
    served.start()
    wait_until(lambda: can_search(served), "Ray is not found", _LONG_S)
    wait_for(served, "story", job_pb.JOB_STATE_RUNNING)
    assert sessions(served) == 1  # the controller was found, not started anew

    ray.shutdown()
    wait_until(lambda: not can_search(served), "nobody sees that Ray is gone", _LONG_S)
    with served.channel() as channel:
        request = front_pb.QueryFrontRequest(job="story")
        assert FrontServiceStub(channel).QueryFront(request).trials
        job = SearchServiceStub(channel).GetJob(pb.GetJobRequest(job="story")).job
        assert (job.state, job.detail) == (job_pb.JOB_STATE_QUEUED, "Ray cannot be reached")

    before = trials(served)
    start_ray()
    wait_until(lambda: trials(served) > before + 10, "it does not go on", _LONG_S)
    assert sessions(served) == 2
    with served.channel() as channel:
        stub = SearchServiceStub(channel)
        stub.CancelJob(pb.CancelJobRequest(job="story", mode=pb.CANCEL_MODE_NOW))
    wait_for(served, "story", job_pb.JOB_STATE_CANCELLED)
    ends = [x.trial for x in log_of(served, "story") if x.kind is EventKind.COMPLETED]
    assert len(ends) == len(set(ends))
    assert served.stop() == 0


def trials(served: Served) -> int:
    return len(run_of(served, "story").completed())


def sessions(served: Served) -> int:
    return sum(x.kind is EventKind.OPENED for x in log_of(served, "story"))
