"""The actor that runs on a Ray worker: one warm evaluator, one thread."""

from __future__ import annotations

from autoprune.contracts.executor import EvaluatorSpec, TrainingResult, WorkItem, WorkResult
from autoprune.contracts.training import TrainingItem
from autoprune.executor.failure import failure_of
from autoprune.trial import Evaluation


class Worker:
    """Evaluates items; a failing evaluation comes back as a failure, never raised."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        _use_one_thread()
        self._evaluator = spec.build()

    def needs_probe(self) -> bool:
        """Say whether items must be completed by `probe`; also the sign of readiness."""
        return self._evaluator.needs_probe

    def evaluate(self, item: WorkItem) -> WorkResult:
        """Evaluate an item without its exclusive part."""
        try:
            return WorkResult(item, evaluation=self._evaluator.evaluate(item))
        except Exception as error:
            return WorkResult(item, failure=failure_of(error))

    def train(self, item: TrainingItem) -> TrainingResult:
        """Run one slice of a training."""
        try:
            return TrainingResult(item, progress=self._evaluator.train(item))
        except Exception as error:
            return TrainingResult(item, failure=failure_of(error))

    def probe(self, item: WorkItem, evaluation: Evaluation) -> WorkResult:
        """Complete an evaluation; call it only while no other worker runs."""
        try:
            return WorkResult(item, evaluation=self._evaluator.probe(item, evaluation))
        except Exception as error:
            return WorkResult(item, failure=failure_of(error))


def _use_one_thread() -> None:
    # Several workers share the machine's cores: more threads each make all of them slower.
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
