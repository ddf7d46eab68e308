"""Runs evaluations in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.contracts.executor import (
    Evaluator,
    EvaluatorSpec,
    Executor,
    Result,
    TrainingResult,
    WorkItem,
    WorkResult,
    failed,
)
from autoprune.contracts.training import TrainingItem
from autoprune.errors import ExecutorError
from autoprune.executor.failure import failure_of


class LocalExecutor(Executor):
    """Serial and deterministic; the evaluation happens inside `wait`.

    Being one process, it cannot cut off an evaluation that never ends, nor survive one
    that takes the process down; `RayExecutor` does both.
    """

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._evaluator: Evaluator | None = spec.build()
        self._item: WorkItem | TrainingItem | None = None

    @property
    def free(self) -> int:
        """One while nothing waits, else zero."""
        return int(self._item is None and self._evaluator is not None)

    def submit(self, item: WorkItem | TrainingItem) -> None:
        """Take the item; raises `ExecutorError` while another one waits."""
        if not self.free:
            raise ExecutorError("no free worker: call wait before the next submit")
        self._item = item

    def wait(self, timeout_s: float) -> Sequence[Result]:
        """Run the waiting item, however long it takes."""
        if self._item is None or self._evaluator is None:
            return []
        item, self._item = self._item, None
        return [performed(self._evaluator, item)]

    def close(self) -> None:
        """Drop the evaluator and what waits."""
        self._item = None
        self._evaluator = None


def performed(evaluator: Evaluator, item: WorkItem | TrainingItem) -> Result:
    """Train a slice, or evaluate, probe included; what raises becomes a failure."""
    try:
        if isinstance(item, TrainingItem):
            return TrainingResult(item, progress=evaluator.train(item))
        evaluation = evaluator.evaluate(item)
        if evaluator.needs_probe:
            evaluation = evaluator.probe(item, evaluation)
    except Exception as error:
        return failed(item, failure_of(error))
    return WorkResult(item, evaluation=evaluation)
