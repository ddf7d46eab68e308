"""The actor that runs on a Ray worker: one warm evaluator, one thread, nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import ray

from autoprune.artifacts import read_artifact, write_artifact
from autoprune.contracts.executor import (
    EvaluatorSpec,
    Result,
    TrainingResult,
    WorkItem,
    WorkResult,
    failed,
)
from autoprune.contracts.training import TrainingItem
from autoprune.executor.failure import failure_of
from autoprune.trial import Evaluation, Failure, FailureKind

# The largest evaluation that goes into the log, as JSON text.
LARGEST_RESULT = 1_000_000
_BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use: its share of a GPU, and bytes of memory."""

    gpus: float = 0.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that can be given items.

    `device` is the kind that it measures on; `sees_files`: the run's directory is within
    reach of its machine, so that artifacts need not be sent.
    """

    needs_probe: bool
    device: str
    sees_files: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A result, the artifacts that it names, and the memory of the worker afterwards."""

    result: Result
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    memory_bytes: int = 0


class EvaluationWorker:
    """Evaluates items; a failing evaluation comes back as a failure, never raised.

    Artifacts are written to the run's own directory where this machine sees it; where not,
    they travel with items and results.
    """

    def __init__(self) -> None:
        # Orphans of this process become its children, so that they can be found and ended.
        ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)

    def node(self) -> str:
        """Return the id of the node that the worker was placed on."""
        return str(ray.get_runtime_context().get_node_id())

    def build(
        self,
        spec: EvaluatorSpec,
        material: Mapping[str, Any] | None,
        limits: Limits,
        marker: str | None,
    ) -> Ready:
        """Build the evaluator; `marker` is a file of the run's directory, to find it by."""
        _confine(limits)
        more: dict[str, Any] = {} if material is None else {"material": material}
        self._is_shared = marker is None or Path(marker).is_file()
        if marker is not None:
            shared = str(Path(marker).parent)
            more["files"] = shared if self._is_shared else tempfile.mkdtemp(prefix="autoprune-")
        self._files = Path(more["files"]) if marker is not None else None
        self._evaluator = spec.build(**more)
        return Ready(self._evaluator.needs_probe, self._evaluator.device, self._is_shared)

    def evaluate(self, item: WorkItem, artifacts: Mapping[str, Any]) -> Served:
        """Evaluate an item without its exclusive part."""
        return self._serve(
            item,
            artifacts,
            lambda: _checked(WorkResult(item, evaluation=self._evaluator.evaluate(item))),
        )

    def train(self, item: TrainingItem, artifacts: Mapping[str, Any]) -> Served:
        """Run one slice of a training."""
        return self._serve(
            item, artifacts, lambda: TrainingResult(item, progress=self._evaluator.train(item))
        )

    def probe(self, item: WorkItem, evaluation: Evaluation) -> Served:
        """Complete an evaluation; call it only while no other worker of the node runs."""
        return self._serve(
            item,
            {},
            lambda: _checked(WorkResult(item, evaluation=self._evaluator.probe(item, evaluation))),
        )

    def _serve(
        self, item: WorkItem | TrainingItem, artifacts: Mapping[str, Any], run: Callable[[], Result]
    ) -> Served:
        try:
            self._receive(artifacts)
            result = run()
        except Exception as error:
            result = failed(item, failure_of(error))
        _end_daemons()
        return Served(result, self._produced(result), psutil.Process().memory_info().rss)

    def _receive(self, artifacts: Mapping[str, Any]) -> None:
        """Write the artifacts that an item needs to this machine, where they are not yet."""
        for name, ref in artifacts.items():
            if self._files is not None and not (self._files / name).exists():
                write_artifact(self._files, ray.get(ref[0]), Path(name).suffix)

    def _produced(self, result: Result) -> dict[str, bytes]:
        """Return the artifacts that a result names, where the run's directory is elsewhere."""
        if self._is_shared or self._files is None:
            return {}
        return {name: read_artifact(self._files, name) for name in named(result)}


def named(result: Result) -> list[str]:
    """Return the names of the artifacts that a result speaks of."""
    if isinstance(result, TrainingResult):
        return [result.progress.checkpoint] if result.progress else []
    weights = result.evaluation.weights if result.evaluation else None
    return [weights] if weights else []


def _checked(result: WorkResult) -> WorkResult:
    """Return a result that is not too large to be sent and logged."""
    assert result.evaluation is not None
    size = len(json.dumps(result.evaluation.to_json(), default=str))
    if size <= LARGEST_RESULT:
        return result
    message = f"a result of {size:,} bytes; at most {LARGEST_RESULT:,} can be logged"
    return replace(result, evaluation=None, failure=Failure(FailureKind.INVALID, message))


def _confine(limits: Limits) -> None:
    """Keep this process to its share of the machine."""
    if limits.memory_bytes is not None:
        # What is allocated, not what is mapped: CUDA maps far more than it uses.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, hard))
    try:
        import torch
    except ImportError:
        return
    # Several workers share the machine's cores: more threads each make all of them slower.
    torch.set_num_threads(1)
    if 0 < limits.gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(limits.gpus)


def _end_daemons() -> None:
    """End what an evaluation left running in a session of its own, as daemons are."""
    own = os.getsid(0)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(child.pid) != own:
                child.kill()
                child.wait(5)
