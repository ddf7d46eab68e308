"""The Ray executor keeps the contract, and survives workers that die or never end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.errors import ExecutorError
from autoprune.testing import ExecutorContract
from autoprune.testing.evaluators import SCRIPTED
from autoprune.testing.executor import run
from autoprune.trial import FailureKind
from cluster.executor import RayExecutor
from cluster.placement import Resources

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
_SPEC = EvaluatorSpec(SCRIPTED)
ONE, TWO = (Resources(fewest=count, most=count) for count in (1, 2))


@pytest.fixture(autouse=True, scope="module")
def one_ray() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


class TestRayExecutor(ExecutorContract):
    def make(self, spec: EvaluatorSpec) -> RayExecutor:
        return RayExecutor(spec, TWO)


def test_a_worker_that_dies_costs_its_item_and_is_replaced() -> None:
    executor = RayExecutor(_SPEC, TWO)
    try:
        results = {x.item.trial: x for x in run(executor, ["ok", "exit", "ok", "exit", "ok"])}
        kinds = {number: x.failure.kind for number, x in results.items() if x.failure}
        assert kinds == {1: FailureKind.CRASH, 3: FailureKind.CRASH}
        assert until_free(executor, 2)
        assert all(x.evaluation for x in run(executor, ["ok"] * 4))
    finally:
        executor.close()


def test_an_item_without_end_is_cut_off() -> None:
    executor = RayExecutor(_SPEC, replace(TWO, trial_timeout_s=1.0))
    try:
        results = {x.item.trial: x for x in run(executor, ["sleep:60", "ok", "ok"])}
        assert results[0].failure is not None
        assert results[0].failure.kind is FailureKind.TIMEOUT
        assert "trial_timeout_s" in results[0].failure.message
        assert results[1].evaluation
        assert results[2].evaluation
        assert until_free(executor, 2)
        assert all(x.evaluation for x in run(executor, ["ok"] * 3))
    finally:
        executor.close()


def test_a_worker_that_dies_in_a_probe_costs_its_item_only() -> None:
    executor = RayExecutor(EvaluatorSpec(SCRIPTED, {"probes": True}), ONE)
    try:
        results = {x.item.trial: x for x in run(executor, ["ok", "probe:exit", "ok"])}
        kinds = {number: x.failure.kind for number, x in results.items() if x.failure}
        assert kinds == {1: FailureKind.CRASH}
        assert all("latency_ms" in results[x].evaluation.measurements for x in (0, 2))
        assert all(x.evaluation for x in run(executor, ["ok"]))
    finally:
        executor.close()


def test_a_probe_without_end_is_cut_off() -> None:
    spec = EvaluatorSpec(SCRIPTED, {"probes": True})
    executor = RayExecutor(spec, replace(ONE, trial_timeout_s=1.0))
    try:
        results = {x.item.trial: x for x in run(executor, ["probe:sleep:60", "ok"])}
        assert results[0].failure is not None
        assert results[0].failure.kind is FailureKind.TIMEOUT
        assert results[1].evaluation
    finally:
        executor.close()


def test_workers_that_cannot_be_placed_are_named() -> None:
    with pytest.raises(ExecutorError, match="UNSCHEDULABLE"):
        RayExecutor(_SPEC, Resources(fewest=3, stall_s=3.0))


def test_an_evaluator_that_cannot_be_built_is_an_error() -> None:
    spec = EvaluatorSpec("autoprune.testing.evaluators:Missing")
    with pytest.raises(ExecutorError, match="Missing"):
        RayExecutor(spec, ONE)


def until_free(executor: RayExecutor, count: int) -> bool:
    """Wait until so many workers are free, those that replace lost ones included."""
    deadline = time.monotonic() + 60
    while executor.free < count and time.monotonic() < deadline:
        executor.wait(0.2)
    return executor.free == count
