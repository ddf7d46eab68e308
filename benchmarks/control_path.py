"""Milliseconds that one trial costs the controller: ask, commits, dispatch, tell, front.

    python -m benchmarks.control_path [--trials 500]

Evaluations cost nothing (an invented error, the real cost table of ResNet-20), so what is
left is the control path: NSGA-II, SQLite with synchronous FULL, and the executor, once in
this process and once over Ray.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.contracts.executor import Evaluator, EvaluatorSpec, Executor, WorkItem
from autoprune.controller.loop import SearchLoop
from autoprune.controller.problem import problem_of
from autoprune.controller.state import JobState
from autoprune.evaluation.preparation import Preparation
from autoprune.executor.local import LocalExecutor
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.store.sql import SqlStore
from autoprune.surgery.examination import examine
from autoprune.trial import Evaluation, Measurement
from cluster.connection import connected
from cluster.executor import RayExecutor
from cluster.placement import Resources


class NoopEvaluator(Evaluator):
    """Answers at once: the true macs, and an error that falls with them."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.costs = NetworkGraph.from_json(graph).costs

    def evaluate(self, item: WorkItem) -> Evaluation:
        """Return an invented evaluation."""
        macs = self.costs.costs(item.policy).macs
        wobble = int(item.policy.sha256[:4], 16) / 2**16
        error = 0.08 + 0.8 * (1 - macs / 40.6e6) ** 2 * (0.5 + wobble)
        return Evaluation({"error": Measurement(error), "macs": Measurement(float(macs))})


def ms_per_trial(executor: Executor, preparation: Preparation, trials: int) -> float:
    """Run a search of `trials` trials and return wall milliseconds per trial."""
    job = Job.model_validate(
        {
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "path": "unused"},
            "searchers": ["nsga2"],
            "baselines": {"searchers": []},
            "budget": {"trials": trials},
        }
    )
    problem = problem_of(job, preparation)
    with (
        tempfile.TemporaryDirectory() as directory,
        SqlStore(Path(directory) / "store.sqlite") as store,
    ):
        store.create_job(job.name, {})
        loop = SearchLoop(JobState(job, preparation, problem), store, lambda: executor)
        loop.executor = executor
        start = time.perf_counter()
        loop._search()  # without the report split, which is no part of a trial
        seconds = time.perf_counter() - start
    return 1e3 * seconds / trials


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    trials = parser.parse_args().trials
    model, example = CifarResNet(20).eval(), torch.randn(2, 3, 32, 32)
    graph = examine(model, example).graph
    preparation = Preparation(graph, torch.float32, 10, "", {"l1": {}})
    spec = EvaluatorSpec("benchmarks.control_path:NoopEvaluator", {"graph": graph.to_json()})
    local = ms_per_trial(LocalExecutor(spec), preparation, trials)
    with connected(None, 2):
        executor = RayExecutor(spec, Resources(fewest=2, most=2))
        try:
            over_ray = ms_per_trial(executor, preparation, trials)
        finally:
            executor.close()
    figures = {"trials": trials, "local_ms": local, "ray_ms": over_ray, "target_ms": 25.0}
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
