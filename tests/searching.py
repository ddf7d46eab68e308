"""A search in memory: the real loop, store and searchers, on evaluations made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoprune.contracts.executor import Evaluator, WorkItem
from autoprune.contracts.searcher import SearchProblem
from autoprune.contracts.store import Event, Store
from autoprune.contracts.training import TrainingItem, TrainingProgress
from autoprune.controller.loop import SearchLoop
from autoprune.controller.state import JobState, resumed
from autoprune.evaluation.preparation import Preparation
from autoprune.executor.local import LocalExecutor
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.metrics import goals_of
from autoprune.policy import Policy
from autoprune.store.sql import SqlStore
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement
from search_spaces.layerwise import Layerwise

UNITS = (16, 24, 12)


class SmallEvaluator(Evaluator):
    """Measures error and macs of `small_problem`; trains by counting steps."""

    def __init__(self, *, slice_steps: int = 10, dies_after: int | None = None) -> None:
        self.problem = small_problem(UNITS)
        self.slice_steps = slice_steps
        self.dies_after = dies_after
        self.evaluated = 0

    def evaluate(self, item: WorkItem) -> Evaluation:
        """Return the error and macs of the policy; stop like Ctrl-C after `dies_after`."""
        self.evaluated += 1
        if self.dies_after is not None and self.evaluated > self.dies_after:
            raise KeyboardInterrupt
        found = measure(self.problem, item.policy)
        error = 0.05 + 0.8 * (1.0 - found.value("accuracy"))
        macs = found.measurements["macs"]
        return Evaluation({"error": Measurement(error), "macs": macs}, seconds=1.0)

    def train(self, item: TrainingItem) -> TrainingProgress:
        """Count `slice_steps` more steps."""
        if item.request.options.get("fails"):
            raise RuntimeError("out of luck")
        done = (item.progress.done if item.progress else 0) + self.slice_steps
        return TrainingProgress(done, item.request.steps, f"net-{done}", seconds=2.0)


def small_job(**options: Any) -> Job:
    """Return a job whose model and data are never looked at."""
    body: dict[str, Any] = {
        "model": {"name": "cifar_resnet20"},
        "data": {"name": "cifar10", "path": "unused"},
        "baselines": {"searchers": ["random"], "trials": 3},
        "budget": {"trials": 30},
        "resources": {"workers": "serial"},
    }
    return Job.model_validate(body | options)


def small_search(
    job: Job,
    path: Path,
    *,
    evaluator: SmallEvaluator | None = None,
    seeds: Sequence[Policy] = (),
) -> tuple[JobState, list[Event]]:
    """Run, or go on with, a search whose log is at `path`; return its state and log."""
    with SqlStore(path) as store:
        if not store.jobs():
            store.create_job(job.name, {})
        state = small_state(job, store, seeds)
        ready = _Ready(evaluator or SmallEvaluator())
        with suppress(KeyboardInterrupt):
            SearchLoop(state, store, lambda: LocalExecutor(ready)).run()  # type: ignore[arg-type]
        return state, list(store.events(job.name))


def small_state(job: Job, store: Store, seeds: Sequence[Policy] = ()) -> JobState:
    """Return the state of a search in memory from where its log stands."""
    problem = _problem(job)
    graph = NetworkGraph(problem.groups, problem.costs, ())
    preparation = Preparation(graph, torch.float32, 10, "", {})
    return resumed(store, job, preparation, problem, seeds)


def asked(events: Sequence[Event]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return author and policy of every proposal in a log."""
    return [(x.body["searcher"], x.body["policy"]) for x in events if x.kind == "ASKED"]


def _problem(job: Job) -> SearchProblem:
    problem = small_problem(UNITS)
    is_timeless = job.resources.workers == "serial"
    space = Layerwise(problem.groups)
    return replace(problem, space=space, goals=goals_of(job), dense=None, is_timeless=is_timeless)


class _Ready:
    """A spec of an evaluator that is there already."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def build(self) -> Evaluator:
        return self._evaluator
