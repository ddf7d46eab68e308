"""Evaluators without a network, for suites, benchmarks and faults on purpose.

What one does with an item hangs on the policy's criterion, the only free text an item has:
`ok`, `raise:NAME`, `sleep:SECONDS`, and the poisons of `POISONS`; after `probe:`, the probe
does it instead. Names for `EvaluatorSpec`: `SCRIPTED`.
"""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from autoprune.contracts.executor import Evaluator, WorkItem
from autoprune.contracts.training import TrainingItem, TrainingProgress
from autoprune.errors import NonFiniteError, PolicyError
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Measurement

SCRIPTED = "autoprune.testing.evaluators:ScriptedEvaluator"
_PROBE = "probe:"
_ERRORS = {
    "NonFiniteError": NonFiniteError,
    "PolicyError": PolicyError,
    "MemoryError": MemoryError,
    "RuntimeError": RuntimeError,
}


def item(trial: int, action: str = "ok") -> WorkItem:
    """Return an item on which `ScriptedEvaluator` acts as told."""
    return WorkItem(trial, Policy.from_keep_ratios({}, action))


class ScriptedEvaluator(Evaluator):
    """Does what the item says. With `journal`, evaluations and probes write when they ran."""

    def __init__(self, *, probes: bool = False, journal: str | None = None) -> None:
        self._probes = probes
        self._journal = Path(journal) if journal else None

    @property
    def needs_probe(self) -> bool:
        """Say whether `probe` must complete the evaluations."""
        return self._probes

    def evaluate(self, item: WorkItem) -> Evaluation:
        """Act as the item's criterion says, then measure the trial's number."""
        start = time.monotonic()
        script = item.policy.recipe.criterion
        if not script.startswith(_PROBE):
            _act(script)
        self._note("evaluate", start)
        value = math.nan if script == "nan" else float(item.trial)
        device = "x" * 100_000_000 if script == "huge" else "cpu"
        return Evaluation({"error": Measurement(value)}, device=device)

    def train(self, item: TrainingItem) -> TrainingProgress:
        """Act as the request's option `action` says, then report ten steps more."""
        _act(str(item.request.options.get("action", "ok")))
        done = (item.progress.done if item.progress else 0) + 10
        figures = {"loss": 1.0 / done}
        return TrainingProgress(done, item.request.steps, f"after {done}", figures=figures)

    def probe(self, item: WorkItem, evaluation: Evaluation) -> Evaluation:
        """Add a metric that only the probe gives."""
        start = time.monotonic()
        script = item.policy.recipe.criterion
        if script.startswith(_PROBE):
            _act(script.removeprefix(_PROBE))
        time.sleep(0.02)
        self._note("probe", start)
        measured = {**evaluation.measurements, "latency_ms": Measurement(1.0)}
        return replace(evaluation, measurements=measured)

    def _note(self, what: str, start: float) -> None:
        if self._journal is not None:
            with self._journal.open("a") as file:
                # The parent of a worker is its node, also where several share a machine.
                file.write(f"{what} {start} {time.monotonic()} {os.getppid()}\n")


def _act(script: str) -> None:
    action, _, argument = script.partition(":")
    if action == "raise":
        raise _ERRORS[argument]("as told")
    if action == "sleep":
        time.sleep(float(argument))
    if action in POISONS:
        POISONS[action](argument)


def _exit(_: str) -> None:
    os._exit(1)


def _segfault(_: str) -> None:
    ctypes.string_at(0)


def _loop(_: str) -> None:
    while True:
        pass


def _hoard(_: str) -> None:
    """Ask for memory until there is none."""
    hoard = []
    while True:
        hoard.append(bytearray(2**26))


def _daemon(path: str) -> None:
    """Leave a process behind that nobody waits for, and write its number to `path`."""
    script = f"echo $$ > {path}; exec sleep 600"
    subprocess.run(["setsid", "--fork", "sh", "-c", script], check=True)
    while not (Path(path).exists() and Path(path).read_text()):
        time.sleep(0.01)


def _nothing(_: str) -> None:
    """Leave the harm to the result."""


# What takes a worker down, or would, or would harm the log.
POISONS: Mapping[str, Callable[[str], None]] = {
    "exit": _exit,
    "segfault": _segfault,
    "loop": _loop,
    "hoard": _hoard,
    "nan": _nothing,
    "huge": _nothing,
    "daemon": _daemon,
}
