"""Hypervolume against the number of evaluations: every searcher, and peers in their loops.

    python -m benchmarks.search_quality --network resnet20 --trials 100
    python -m benchmarks.search_quality --network resnet56 --trials 300 --methods portfolio,…

Protocol P1: the inner channels of a pretrained CIFAR-10 ResNet, L1, batch norms taken anew
on 250 training images, error on 500 images of V, five seeds. Hypervolume of (error, share
of macs) to the reference point (0.9, 1.0), as a share of that box; in the end the front is
judged again on 2,000 images of T. Sweeps have no seed. Runs end up in a JSON-lines file
beside the table of recorded evaluations; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import moocore
import numpy as np

from autoprune import plugins
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy
from autoprune.trial import Trial, TrialState
from benchmarks.peers import Spent, peers
from benchmarks.recorded import ROOT, RecordedNetwork, searcher_names

SEEDS = 5
REFERENCE = (0.9, 1.0)
UNSEEDED = ("uniform", "Torch-Pruning uniform", "Torch-Pruning global", "Torch-Pruning LAMP")
_network: RecordedNetwork | None = None


class Run:
    """One method's policies and losses in the order of evaluation; repetitions are free."""

    def __init__(self, network: RecordedNetwork, budget: int) -> None:
        self.network = network
        self.budget = budget
        self.dense = network.preparation.graph.costs.costs(Policy()).macs
        self.policies: dict[str, Policy] = {}
        self.losses: list[tuple[float, float]] = []

    def evaluate(self, policy: Policy) -> tuple[float, float]:
        """Return error and share of macs; raises `Spent` beyond the budget."""
        canonical = self.network.preparation.graph.groups.canonical(policy)
        if canonical.sha256 not in self.policies and len(self.policies) >= self.budget:
            raise Spent
        losses = self._losses(self.network.evaluate(canonical))
        if canonical.sha256 not in self.policies:
            self.policies[canonical.sha256] = canonical
            self.losses.append(losses)
        return losses

    def summary(self) -> dict[str, Any]:
        """Return the hypervolume after every evaluation, and that of the front on T."""
        points = np.array(self.losses)
        volumes = [_volume(points[: count + 1]) for count in range(len(points))]
        on_front = moocore.is_nondominated(points)
        front = [x for x, y in zip(self.policies.values(), on_front, strict=True) if y]
        reported = np.array([self._losses(self.network.report(policy)) for policy in front])
        return {"volumes": volumes, "on_t": _volume(reported), "front": len(front)}

    def _losses(self, evaluation: Any) -> tuple[float, float]:
        return evaluation.value("error"), evaluation.value("macs") / self.dense


def searched(name: str, problem: SearchProblem, seed: int, run: Run) -> None:
    """Ask and tell a searcher, one policy at a time, until the budget is spent."""
    searcher: Searcher = plugins.create("searcher", _spec(name, run.budget), problem, seed=seed)
    for number in range(1, 20 * run.budget):
        policies = searcher.ask(1)
        if not policies:
            return
        policy = problem.groups.canonical(policies[0])
        run.evaluate(policy)
        evaluation = run.network.evaluate(policy)
        searcher.tell(Trial(number, policy, name, 0, TrialState.COMPLETED, evaluation=evaluation))


def _spec(name: str, budget: int) -> PluginSpec:
    # A sweep of as many points as the others have trials.
    options = {"points": budget} if name == "uniform" else {}
    return PluginSpec(name=name, options=options)


def perform(task: tuple[str, int, int]) -> dict[str, Any]:
    """Run one method with one seed in this process."""
    method, seed, budget = task
    assert _network is not None
    problem = _network.problem(budget)
    run = Run(_network, budget)
    start = time.perf_counter()
    own = peers(_network.evaluator.bench.model)
    try:
        if method in own:
            own[method](problem, seed, budget, run.evaluate)
        else:
            searched(method, problem, seed, run)
    except Spent:
        pass
    seconds = time.perf_counter() - start
    return {"method": method, "seed": seed, "seconds": round(seconds, 1), **run.summary()}


def _start(name: str, table: str) -> None:
    global _network
    _network = RecordedNetwork(name, Path(table))


def _volume(points: np.ndarray) -> float:
    scaled = np.clip(points / np.array(REFERENCE), 0.0, None)
    inside = scaled[(scaled < 1.0).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=[1.0, 1.0])) if len(inside) else 0.0


def tables(results: Sequence[Mapping[str, Any]], trials: int) -> Iterator[str]:
    """Yield the lines of a Markdown table, best on V first."""
    marks = sorted({trials // 4, trials // 2, trials})
    yield "| method | " + " | ".join(f"V, {mark}" for mark in marks) + " | area on V | T |"
    yield "|---|" + "---|" * (len(marks) + 2)
    methods = {each["method"] for each in results}
    rows = {method: [x for x in results if x["method"] == method] for method in methods}
    for method in sorted(rows, key=lambda x: -statistics.median(_final(rows[x]))):
        runs = rows[method]
        cells = [_quartiles([at(x["volumes"], mark) for x in runs]) for mark in marks]
        cells.append(_quartiles([area(x["volumes"], trials) for x in runs]))
        cells.append(_quartiles([x["on_t"] for x in runs]))
        yield f"| {method} | " + " | ".join(cells) + " |"


def verdicts(results: Sequence[Mapping[str, Any]], trials: int) -> Iterator[str]:
    """Yield how the portfolio stands against the targets."""
    by_method = _by_method(results)
    own = [name for name in by_method if name in searcher_names() and name != "portfolio"]
    if "portfolio" not in by_method or not own:
        return
    best = max(own, key=lambda name: statistics.median(_final(by_method[name])))
    lower = float(np.quantile(_final(by_method[best]), 0.25))
    median = statistics.median(_final(by_method["portfolio"]))
    yield f"portfolio's median {median:.4f}; lower quartile of the best single, {best}: {lower:.4f}"
    curve = np.median(
        [[at(x["volumes"], n) for n in range(1, trials + 1)] for x in by_method["portfolio"]],
        axis=0,
    )
    for peer, share in (("random", 1 / 3), ("pymoo NSGA-II", 2 / 3), ("Optuna TPE", 2 / 3)):
        if peer in by_method:
            goal = statistics.median(_final(by_method[peer]))
            reached = np.flatnonzero(curve >= goal)
            count = int(reached[0]) + 1 if len(reached) else None
            yield (
                f"final hypervolume of {peer} {goal:.4f}: after {count} of {trials} evaluations "
                f"(target {share * trials:.0f})"
            )


def at(volumes: Sequence[float], count: int) -> float:
    """Return the hypervolume after `count` evaluations, or after the last one."""
    return volumes[min(count, len(volumes)) - 1]


def area(volumes: Sequence[float], trials: int) -> float:
    """Return the mean hypervolume over all counts of evaluations."""
    return statistics.mean(at(volumes, count) for count in range(1, trials + 1))


def _final(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [each["volumes"][-1] for each in runs]


def _by_method(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for each in results:
        grouped.setdefault(each["method"], []).append(each)
    return grouped


def _quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.4f}" if len(values) == 1 else f"{middle:.4f} ({low:.4f}–{high:.4f})"


def _tasks(methods: Sequence[str], seeds: int, trials: int) -> list[tuple[str, int, int]]:
    return [
        (method, seed, trials)
        for seed in range(seeds)
        for method in methods
        if seed == 0 or method not in UNSEEDED
    ]


def main() -> None:
    """Run what is missing, then print the table and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=("resnet20", "resnet56"), default="resnet20")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--methods", default="", help="names, separated by commas; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "search_quality")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / f"{given.network}-{given.trials}.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    names = given.methods.split(",") if given.methods else [*searcher_names(), *_PEERS]
    finished = {(each["method"], each["seed"]) for each in done}
    tasks = [x for x in _tasks(names, given.seeds, given.trials) if x[:2] not in finished]
    start: Callable[..., None] = _start
    arguments = (given.network, str(given.out / "evaluations.sqlite"))
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.processes, start, arguments) as pool, log.open("a") as file:
        for result in pool.imap_unordered(perform, tasks):
            done.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
    shown = [each for each in done if each["method"] in names]
    print("\n".join([*tables(shown, given.trials), "", *verdicts(shown, given.trials)]))


_PEERS = (
    "Optuna NSGA-II",
    "Optuna TPE",
    "Optuna GP",
    "pymoo NSGA-II",
    "Torch-Pruning uniform",
    "Torch-Pruning global",
    "Torch-Pruning LAMP",
)


if __name__ == "__main__":
    main()
