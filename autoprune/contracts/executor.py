"""The contracts of an evaluator and of an executor, which runs evaluators somewhere.

    executor = LocalExecutor(spec)
    executor.submit(WorkItem(trial=3, policy=policy, rung=0, seed=17))   # while free > 0
    executor.wait(timeout_s=1.0)          # [WorkResult(...)], empty when the time is up
    executor.close()                      # kills what still runs; nothing is lost but work

* One thread drives an executor; it is not safe for several.
* Results come back once each, in any order. An executor that evaluates inside `wait` may
  take longer than the time-out.
* A failing evaluation is a result with a failure, never an exception; `ExecutorError`
  means that no more work can be done.
* `close` may be called at any time, twice as well.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from autoprune.contracts.recovery import Teacher
from autoprune.contracts.training import TrainingItem, TrainingProgress
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Failure, Measurement

Split = Literal["search", "report"]


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One evaluation to run: a canonical policy at a rung, on one split, from a seed.

    `dense` is what was measured of the dense network, once that is known; `teacher` is the
    network of another trial that teaches this one.
    """

    trial: int
    policy: Policy
    rung: int = 0
    split: Split = "search"
    seed: int = 0
    attempt: int = 1
    dense: Mapping[str, Measurement] = field(default_factory=dict)
    teacher: Teacher | None = None

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of the files that the evaluation reads."""
        named = (self.policy.recipe.pruning_net, self.teacher.weights if self.teacher else None)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What came of an evaluation: exactly one of `evaluation` and `failure` is set."""

    item: WorkItem
    evaluation: Evaluation | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a slice of training: exactly one of `progress` and `failure` is set."""

    item: TrainingItem
    progress: TrainingProgress | None = None
    failure: Failure | None = None


Result: TypeAlias = WorkResult | TrainingResult


def failed(item: WorkItem | TrainingItem, failure: Failure) -> Result:
    """Return the result of an item that failed."""
    if isinstance(item, TrainingItem):
        return TrainingResult(item, failure=failure)
    return WorkResult(item, failure=failure)


class Evaluator(ABC):
    """Evaluates items one after the other in one process, warm between them."""

    @abstractmethod
    def evaluate(self, item: WorkItem) -> Evaluation:
        """Prune, repair, recover and measure; raises on failure."""

    def train(self, item: TrainingItem) -> TrainingProgress:
        """Run one slice of a training; raises on failure."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    @property
    def needs_probe(self) -> bool:
        """Say whether some metrics must be measured where nothing else runs."""
        return False

    @property
    def device(self) -> str:
        """Name of the kind of device; what is probed on different ones is never compared."""
        return "cpu"

    def probe(self, item: WorkItem, evaluation: Evaluation) -> Evaluation:
        """Return `evaluation` completed by the metrics that need an exclusive process."""
        return evaluation


@dataclass(frozen=True)
class EvaluatorSpec:
    """How to build an evaluator in any process: an import string and JSON options.

    `material` names a function that gathers from the options what all evaluators of a job
    read, as numpy arrays by name. Who runs several evaluators gathers it once and gives it
    to each as the option `material`; an evaluator without it reads for itself.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    material: str | None = None

    def build(self, **more: Any) -> Evaluator:
        """Import `target` (`"package.module:Class"`), construct it with the options and `more`."""
        evaluator: Evaluator = _imported(self.target)(**{**self.options, **more})
        return evaluator

    def gather(self) -> Mapping[str, Any] | None:
        """Return what all evaluators of the job read; None where they read nothing."""
        if self.material is None:
            return None
        material: Mapping[str, Any] = _imported(self.material)(self.options)
        return material


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class Executor(ABC):
    """Runs items on evaluators."""

    @property
    @abstractmethod
    def free(self) -> int:
        """How many items can be submitted now."""

    @abstractmethod
    def submit(self, item: WorkItem | TrainingItem) -> None:
        """Start an item; allowed only while `free` is above zero."""

    @abstractmethod
    def wait(self, timeout_s: float) -> Sequence[Result]:
        """Return what finished, waiting at most `timeout_s` seconds for the first."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything at once, within seconds."""
