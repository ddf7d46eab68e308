"""Suite for executors: inherit, and say how yours is made.

class TestMine(ExecutorContract):
    def make(self, spec):
        return Mine(spec, workers=2)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autoprune.contracts.executor import EvaluatorSpec, Executor, TrainingResult, WorkResult
from autoprune.contracts.training import TrainingItem, TrainingProgress, TrainingRequest
from autoprune.errors import ExecutorError
from autoprune.testing.evaluators import SCRIPTED, item
from autoprune.trial import FailureKind

_FAILURES = {
    "raise:NonFiniteError": FailureKind.NONFINITE,
    "raise:PolicyError": FailureKind.INVALID,
    "raise:MemoryError": FailureKind.OOM_HOST,
    "raise:RuntimeError": FailureKind.CRASH,
}


class ExecutorContract:
    """What every executor promises, on evaluators that do as they are told.

    `runs_aside` is False for an executor that evaluates inside `wait`, and so cannot come
    back before the evaluation does.
    """

    runs_aside: ClassVar[bool] = True

    def make(self, spec: EvaluatorSpec) -> Executor:
        """Return a fresh executor of evaluators built from `spec`."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """Give an executor of plain evaluators, closed after the test."""
        executor = self.make(EvaluatorSpec(SCRIPTED))
        yield executor
        executor.close()

    def test_every_item_comes_back_once(self, executor: Executor) -> None:
        results = run(executor, ["ok"] * 7)
        assert sorted(each.item.trial for each in results) == list(range(7))
        for each in results:
            assert each.failure is None
            assert each.evaluation is not None
            assert each.evaluation.value("error") == each.item.trial
        assert executor.wait(0.01) == []

    def test_free_counts_what_can_be_submitted(self, executor: Executor) -> None:
        total = executor.free
        assert total >= 1
        for number in range(total):
            assert executor.free == total - number
            executor.submit(item(number, "sleep:0.2"))
        assert executor.free == 0
        with pytest.raises(ExecutorError, match="no free worker"):
            executor.submit(item(99))
        assert sorted(x.item.trial for x in drain(executor, total)) == list(range(total))
        assert executor.free == total

    def test_failing_evaluations_are_results(self, executor: Executor) -> None:
        results = {x.item.trial: x for x in run(executor, [*_FAILURES, "ok"])}
        for number, kind in enumerate(_FAILURES.values()):
            assert results[number].evaluation is None
            failure = results[number].failure
            assert failure is not None
            assert failure.kind is kind
            assert "as told" in failure.message
        last = results[len(_FAILURES)]
        assert last.failure is None
        assert last.evaluation is not None

    def test_wait_comes_back_when_its_time_is_up(self, executor: Executor) -> None:
        start = time.monotonic()
        assert executor.wait(30.0) == []
        assert time.monotonic() - start < 5, "nothing is under way, so there is nothing to await"
        if not self.runs_aside:
            return
        executor.submit(item(0, "sleep:1.5"))
        start = time.monotonic()
        assert executor.wait(0.2) == []
        assert 0.15 <= time.monotonic() - start < 1.2
        assert [each.item.trial for each in drain(executor, 1)] == [0]

    def test_probes_complete_evaluations_and_run_alone(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        spec = EvaluatorSpec(SCRIPTED, {"probes": True, "journal": str(journal)})
        executor = self.make(spec)
        try:
            results = run(executor, ["sleep:0.05"] * 12)
        finally:
            executor.close()
        assert len(results) == 12
        for each in results:
            assert each.evaluation is not None
            assert set(each.evaluation.measurements) == {"error", "latency_ms"}
        spans = [line.split() for line in journal.read_text().splitlines()]
        probes = [(float(a), float(b)) for what, a, b, _ in spans if what == "probe"]
        everything = [(float(a), float(b)) for _, a, b, _ in spans]
        assert len(probes) == 12
        for start, end in probes:
            beside = [x for x in everything if x[0] < end and x[1] > start]
            assert beside == [(start, end)]

    def test_a_failing_probe_is_a_result(self) -> None:
        executor = self.make(EvaluatorSpec(SCRIPTED, {"probes": True}))
        try:
            actions = ["ok", "probe:raise:NonFiniteError", "raise:RuntimeError", "ok"]
            results = run(executor, actions)
        finally:
            executor.close()
        kinds = {each.item.trial: each.failure and each.failure.kind for each in results}
        assert kinds == {0: None, 1: FailureKind.NONFINITE, 2: FailureKind.CRASH, 3: None}
        for each in results:
            assert (each.evaluation is None) == (each.failure is not None)

    def test_training_is_done_in_slices(self, executor: Executor) -> None:
        progress = None
        for done in (10, 20):
            executor.submit(TrainingItem("mine", TrainingRequest(20), progress))
            (result,) = drain(executor, 1)
            assert isinstance(result, TrainingResult)
            progress = result.progress
            figures = {"loss": 1.0 / done}
            assert progress == TrainingProgress(done, 20, f"after {done}", figures=figures)
        assert progress is not None
        assert progress.is_complete

    def test_failing_training_is_a_result(self, executor: Executor) -> None:
        request = TrainingRequest(20, {"action": "raise:NonFiniteError"})
        executor.submit(TrainingItem("mine", request))
        (result,) = drain(executor, 1)
        assert isinstance(result, TrainingResult)
        assert result.progress is None
        assert result.failure is not None
        assert result.failure.kind is FailureKind.NONFINITE
        assert run(executor, ["ok"])[0].evaluation is not None

    def test_close_may_come_early_and_twice(self) -> None:
        executor = self.make(EvaluatorSpec(SCRIPTED))
        executor.submit(item(0, "sleep:30"))
        start = time.monotonic()
        executor.close()
        executor.close()
        assert time.monotonic() - start < 10
        assert executor.wait(0.1) == []
        assert executor.free == 0
        with pytest.raises(ExecutorError):
            executor.submit(item(1))


def run(executor: Executor, actions: list[str]) -> list[WorkResult]:
    """Submit every action as workers get free and return all results."""
    waiting = list(enumerate(actions))
    results: list[Any] = []
    deadline = time.monotonic() + 60
    while len(results) < len(actions):
        assert time.monotonic() < deadline, f"{len(results)} of {len(actions)} came back"
        while waiting and executor.free:
            number, action = waiting.pop(0)
            executor.submit(item(number, action))
        results += executor.wait(0.2)
    return results


def drain(executor: Executor, count: int) -> list[Any]:
    """Wait until `count` results are there."""
    results: list[Any] = []
    deadline = time.monotonic() + 60
    while len(results) < count:
        assert time.monotonic() < deadline
        results += executor.wait(0.2)
    return results
