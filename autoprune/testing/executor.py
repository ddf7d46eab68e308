"""Suite for executors: inherit, and say how yours is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.contracts.executor import EvaluatorSpec, Executor, WorkResult
from autoprune.errors import ExecutorError
from autoprune.testing.evaluators import item
from autoprune.trial import FailureKind

_TARGET = "autoprune.testing.evaluators:ScriptedEvaluator"


class ExecutorContract:
    """What every executor promises, on evaluators that do as they are told."""

    def make(self, spec: EvaluatorSpec) -> Executor:
        """Return a fresh executor of evaluators built from `spec`."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """Give an executor of plain evaluators, closed after the test."""
        executor = self.make(EvaluatorSpec(_TARGET))
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

    @pytest.mark.parametrize(
        ("action", "kind"),
        [
            ("raise:NonFiniteError", FailureKind.NONFINITE),
            ("raise:PolicyError", FailureKind.INVALID),
            ("raise:MemoryError", FailureKind.OOM_HOST),
            ("raise:RuntimeError", FailureKind.CRASH),
        ],
    )
    def test_a_failing_evaluation_is_a_result(
        self, executor: Executor, action: str, kind: FailureKind
    ) -> None:
        (failed,) = run(executor, [action])
        assert failed.evaluation is None
        assert failed.failure is not None
        assert failed.failure.kind is kind
        assert "as told" in failed.failure.message
        (fine,) = run(executor, ["ok"])
        assert fine.evaluation is not None

    def test_probes_complete_evaluations_and_run_alone(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal"
        spec = EvaluatorSpec(_TARGET, {"probes": True, "journal": str(journal)})
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
        probes = [(float(a), float(b)) for what, a, b in spans if what == "probe"]
        everything = [(float(a), float(b)) for _, a, b in spans]
        assert len(probes) == 12
        for start, end in probes:
            beside = [x for x in everything if x[0] < end and x[1] > start]
            assert beside == [(start, end)]

    def test_close_may_come_early_and_twice(self) -> None:
        executor = self.make(EvaluatorSpec(_TARGET))
        executor.submit(item(0, "sleep:30"))
        start = time.monotonic()
        executor.close()
        executor.close()
        assert time.monotonic() - start < 10


def run(executor: Executor, actions: list[str]) -> list[WorkResult]:
    """Submit every action as workers get free and return all results."""
    waiting = list(enumerate(actions))
    results: list[WorkResult] = []
    deadline = time.monotonic() + 60
    while len(results) < len(actions):
        assert time.monotonic() < deadline, f"{len(results)} of {len(actions)} came back"
        while waiting and executor.free:
            number, action = waiting.pop(0)
            executor.submit(item(number, action))
        results += executor.wait(0.2)
    return results


def drain(executor: Executor, count: int) -> list[WorkResult]:
    """Wait until `count` results are there."""
    results: list[WorkResult] = []
    deadline = time.monotonic() + 60
    while len(results) < count:
        assert time.monotonic() < deadline
        results += executor.wait(0.2)
    return results
