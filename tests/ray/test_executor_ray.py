"""The Ray executor keeps the contract, and survives workers that die or never end."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from autoprune.artifacts import write_artifact
from autoprune.contracts.executor import EvaluatorSpec, WorkItem, WorkResult
from autoprune.contracts.training import TrainingItem, TrainingRequest
from autoprune.errors import DataError, ExecutorError
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec, preflight
from autoprune.testing import ExecutorContract
from autoprune.testing.evaluators import SCRIPTED, item
from autoprune.testing.executor import run
from autoprune.trial import Evaluation, FailureKind
from autoprune.validation import validated
from cluster.executor import RayExecutor
from cluster.placement import Resources
from cluster.worker import EvaluationWorker, Limits, Served
from tests.unit.test_generation import OPTIONS

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("one_ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
_SPEC = EvaluatorSpec(SCRIPTED)
ONE, TWO = (Resources(fewest=count, most=count) for count in (1, 2))


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


def test_a_worker_is_replaced_after_so_many_items() -> None:
    executor = RayExecutor(_SPEC, replace(ONE, recycle_after=2))
    try:
        first = executor._fleet.seats[0]
        assert all(x.evaluation for x in run(executor, ["ok"] * 2))
        assert first not in executor._fleet.seats
        assert all(x.evaluation for x in run(executor, ["ok"]))
    finally:
        executor.close()


def test_a_worker_that_cannot_be_built_again_ends_the_search_after_some_tries(
    tmp_path: Path,
) -> None:
    needed = tmp_path / "needed"
    needed.touch()
    spec = EvaluatorSpec("tests.ray.fragile:FragileEvaluator", {"path": str(needed)})
    executor = RayExecutor(spec, ONE)
    try:
        needed.unlink()
        assert run(executor, ["exit"])[0].failure is not None
        with pytest.raises(ExecutorError, match="needed"):
            until_free(executor, 1)
    finally:
        executor.close()


def test_artifacts_travel_where_the_directory_of_the_run_is_not_seen(
    digits_job: Mapping[str, Any], tmp_path: Path
) -> None:
    found = preflight(validated(digits_job))
    spec = evaluator_spec(found.job, found.preparation)

    def far_away() -> Any:
        worker = ray.remote(EvaluationWorker).remote()
        marker = "/not/on/this/machine/.executor-1"
        ready = ray.get(worker.build.remote(spec, spec.gather(), Limits(), marker))
        assert not ready.sees_files
        return worker

    one, other = far_away(), far_away()
    served = ray.get(one.evaluate.remote(WorkItem(0, Policy(), split="report"), {}))
    name = served.result.evaluation.weights
    assert write_artifact(tmp_path, served.artifacts[name], ".safetensors") == name
    training = TrainingItem("metapruning", TrainingRequest(20, OPTIONS))
    served = ray.get(one.train.remote(training, {}))
    assert served.result.failure is None
    checkpoint = served.result.progress.checkpoint
    sent = {checkpoint: [ray.put(served.artifacts[checkpoint])]}
    again = ray.get(other.train.remote(replace(training, progress=served.result.progress), sent))
    assert again.result.failure is None
    assert again.result.progress.done > served.result.progress.done
    missing = ray.get(
        far_away().train.remote(replace(training, progress=served.result.progress), {})
    )
    assert missing.result.failure.kind is FailureKind.INVALID


def test_an_artifact_for_which_there_is_no_room_is_no_fault_of_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cluster.executor.write_artifact", no_room)
    spec = EvaluatorSpec("tests.ray.fragile:FiledEvaluator")
    executor = RayExecutor(spec, ONE, files=tmp_path)
    try:
        done = WorkResult(item(7), Evaluation({}, weights="a.safetensors"))
        kept = executor._kept(Served(done, {"a.safetensors": b"a"}))
        assert kept.failure is not None
        assert kept.failure.kind is FailureKind.INFRA
        assert kept.item == done.item
        assert executor._kept(Served(done)) is done
    finally:
        executor.close()


def test_material_that_cannot_be_gathered_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    spec = EvaluatorSpec(SCRIPTED, {"path": "nowhere"}, material="tests.ray.fragile:no_material")
    with pytest.raises(DataError, match="nowhere"):
        RayExecutor(spec, ONE, files=tmp_path)
    assert list(tmp_path.iterdir()) == []
