"""What tests over Ray share: a Ray, or a cluster of several nodes, of their own per module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.connection import NAMESPACE


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Start Ray with two CPUs on this machine."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for workers; tests bring their own nodes."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        # A node that is gone is known to be after some seconds instead of fifteen.
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 8}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        found = Cluster(initialize_head=True, head_node_args=head)
        ray.init(
            address=found.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR"
        )
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def job(digits_job: Mapping[str, Any]) -> dict[str, Any]:
    """Sixty trials of some tenths of a second each."""
    rung = {"repair_images": 400, "images": 300, "finetune_steps": 10}
    return {
        **digits_job,
        "searchers": ["random"],
        "baselines": {"searchers": []},
        "rungs": [rung],
        "budget": {"trials": 60},
        "resources": {"workers": "auto", "device": "cpu", "stall_timeout_s": 8},
    }
