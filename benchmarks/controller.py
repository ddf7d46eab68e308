"""What the control path costs: per trial, beside Ray Tune, with more workers than there are.

    python -m benchmarks.controller [--trials 10000] [--tune-trials 1000] [--skip-workers]

No-op evaluations (an invented error, the real cost table of ResNet-20) leave the control path:
random search, SQLite with synchronous FULL, and an executor, in this process and over two Ray
workers. Ray Tune runs as many no-op trials at a time, with its actors reused. Then a real
search of ResNet-20 with one worker and with two, and a thousand simulated workers whose
evaluations take as long as real ones that are measured first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
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
from autoprune.policy import Policy
from autoprune.preflight import Preflight, evaluator_spec, preflight
from autoprune.store.sql import SqlStore
from autoprune.surgery.examination import examine
from autoprune.testing.simulated import SimulatedExecutor
from autoprune.trial import Evaluation, Measurement
from autoprune.validation import validated
from benchmarks.recorded import CHECKPOINTS, DATA
from cluster.connection import connected
from cluster.executor import RayExecutor
from cluster.placement import Resources

_LAST = 1000  # trials at the end of a run that the cost per trial is taken from


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


def noop_job(trials: int) -> Job:
    """Return a random search whose model and data are never looked at."""
    return Job.model_validate(
        {
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "path": "unused"},
            "searchers": ["random"],
            "baselines": {"searchers": []},
            "budget": {"trials": trials},
        }
    )


class Harness:
    """No-op searches of ResNet-20 in a store on disk."""

    def __init__(self) -> None:
        graph = examine(CifarResNet(20).eval(), torch.randn(2, 3, 32, 32)).graph
        self.preparation = Preparation(graph, torch.float32, 10, "", {"l1": {}})
        self.spec = EvaluatorSpec("benchmarks.controller:NoopEvaluator", {"graph": graph.to_json()})

    def run(self, executor: Executor, trials: int) -> dict[str, float]:
        """Search, and return wall seconds and the processor's milliseconds per trial."""
        job = noop_job(trials)
        problem = problem_of(job, self.preparation)
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            store = stack.enter_context(SqlStore(Path(directory) / "store.sqlite"))
            store.create_job(job.name, {})
            marks: list[tuple[int, float, float]] = []
            state = JobState(job, self.preparation, problem)

            def watch(_: Any) -> None:
                marks.append((state.history.next_number, time.perf_counter(), time.process_time()))

            loop = SearchLoop(state, store, lambda: executor, watcher=watch)
            loop.executor = executor
            start = time.perf_counter()
            loop._search()  # without the report split, which is no part of a trial
            wall = time.perf_counter() - start
        early = max((x for x in marks if x[0] <= marks[-1][0] - _LAST), default=marks[0])
        span = marks[-1][0] - early[0]
        return {
            "per_second": trials / wall,
            "last_wall_ms": 1e3 * (marks[-1][1] - early[1]) / span,
            "last_cpu_ms": 1e3 * (marks[-1][2] - early[2]) / span,
        }


def tune_per_second(trials: int) -> float:
    """Return the no-op trials per second of Ray Tune, two at a time; Ray must be up."""
    from ray import tune

    with tempfile.TemporaryDirectory() as directory:
        tuner = tune.Tuner(
            _noop,
            param_space={f"keep_ratio_{index}": tune.uniform(0.1, 1.0) for index in range(9)},
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=2, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=directory, verbose=0),
        )
        start = time.perf_counter()
        tuner.fit()
        return trials / (time.perf_counter() - start)


def _noop(config: Mapping[str, float]) -> None:
    from ray import tune

    tune.report({"error": sum(config.values()), "macs": 1.0})


def resnet20_job(trials: int, **rung: Any) -> Job:
    """Return a search of the real ResNet-20 on CIFAR-10 whose trials take about a second."""
    data = Path(os.environ.get("AUTOPRUNE_DATA", DATA))
    return validated(
        {
            "model": {"name": "cifar_resnet20", "checkpoint": str(data / CHECKPOINTS["resnet20"])},
            "data": {"name": "cifar10", "path": str(data / "cifar10.npz")},
            "searchers": ["random"],
            "baselines": {"searchers": []},
            "rungs": [{"repair_images": 500, "images": 1000, **rung}],
            "budget": {"trials": trials},
        }
    )


def trials_per_second(workers: int, trials: int, found: Preflight) -> float:
    """Return the evaluations per second of real workers, once all of them are warm."""
    names = [group.name for group in found.preparation.graph.groups.prunable]
    draw = random.Random(0)
    canonical = found.preparation.graph.groups.canonical
    policies = [
        canonical(Policy.from_keep_ratios({name: draw.uniform(0.2, 1.0) for name in names}))
        for _ in range(trials)
    ]
    items = [WorkItem(number, policy) for number, policy in enumerate(policies)]
    with connected(None, workers):
        spec = evaluator_spec(found.job, found.preparation)
        executor = RayExecutor(spec, Resources(fewest=workers, most=workers))
        try:
            _evaluate(executor, items[: 2 * workers])
            start = time.perf_counter()
            _evaluate(executor, items)
            return trials / (time.perf_counter() - start)
        finally:
            executor.close()


def _evaluate(executor: Executor, items: list[WorkItem]) -> None:
    waiting, done = list(items), 0
    while done < len(items):
        while waiting and executor.free:
            executor.submit(waiting.pop(0))
        done += len(executor.wait(1.0))


def recorded_seconds() -> list[float]:
    """Return what six evaluations of ResNet-20 with 20 steps of fine-tuning take."""
    torch.set_num_threads(1)
    found = preflight(resnet20_job(1, finetune_steps=20))
    evaluator = evaluator_spec(found.job, found.preparation).build()
    names = [group.name for group in found.preparation.graph.groups.prunable]
    laps = []
    for index in range(7):
        policy = Policy.from_keep_ratios(dict.fromkeys(names, 1 - 0.1 * index))
        canonical = found.preparation.graph.groups.canonical(policy)
        laps.append(evaluator.evaluate(WorkItem(index, canonical, seed=index)).seconds)
    return laps[1:]  # the first one is cold


def busy_share(harness: Harness, workers: int, trials: int, seconds: list[float]) -> float:
    """Return the share of their time that simulated workers are busy in a search."""
    draw = random.Random(0)

    def lasts(_: Any) -> float:
        return draw.choice(seconds) * draw.uniform(0.8, 1.2)

    executor = SimulatedExecutor(harness.spec.build(), workers, lasts)
    harness.run(executor, trials)
    return executor.busy_share


def main() -> None:
    """Print the figures as JSON, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--tune-trials", type=int, default=1000)
    parser.add_argument("--skip-workers", action="store_true", help="no real evaluations")
    options = parser.parse_args()
    harness = Harness()
    _print("in process", harness.run(LocalExecutor(harness.spec), options.trials))
    with connected(None, 2):
        executor = RayExecutor(harness.spec, Resources(fewest=2, most=2))
        _print("two Ray workers", harness.run(executor, options.trials))
        executor.close()
        _print("Ray Tune", {"per_second": tune_per_second(options.tune_trials)})
    seconds = [20.0]
    if not options.skip_workers:
        found = preflight(resnet20_job(1))
        rates = {f"{n}_per_second": trials_per_second(n, 60, found) for n in (1, 2)}
        _print("ResNet-20", {**rates, "gain": rates["2_per_second"] / rates["1_per_second"]})
        seconds = recorded_seconds()
    share = busy_share(harness, 1000, 10_000, seconds)
    _print("1,000 simulated", {"mean_s": statistics.mean(seconds), "busy_share": share})


def _print(what: str, figures: Mapping[str, float]) -> None:
    print(json.dumps({"what": what, **{name: round(x, 3) for name, x in figures.items()}}))


if __name__ == "__main__":
    main()
