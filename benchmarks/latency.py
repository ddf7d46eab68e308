"""Latency where a network is deployed: predicted against measured, fronts, odd channels (P6).

    python -m benchmarks.latency [--policies 60] [--backends torch onnx openvino]

Weights are those of AUTOPRUNE_RESNET20 and AUTOPRUNE_RESNET56, or random ones: latency does
not depend on them. For every backend, one thread, batch 1: random policies of ResNet-20 over
all groups, each predicted before it is measured and learned; the fronts by latency and by macs
against the share of L1 magnitude that is lost, their members measured again in another process
and judged by that; the multiple of channels that the runtime likes; and ResNet-56 with 10, 30
and 50 % of its inner channels removed against dense.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from scipy.stats import spearmanr

from autoprune.contracts.objective import Goal, Subject
from autoprune.criteria.l1 import L1
from autoprune.evaluation.workbench import processor_name, to_layout
from autoprune.front import Front
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model
from autoprune.objectives.latency import Backend, Latency
from autoprune.policy import Policy
from autoprune.runtimes.catalog import create
from autoprune.runtimes.multiple import preferred_multiple
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import score_groups
from autoprune.surgery.examination import examine
from autoprune.surgery.plan import Plan
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

_LOST, _MS, _MACS = (Goal(name, "", "min") for name in ("lost", "latency_ms", "macs"))


class Bench:
    """One network measured by one backend, as a job does it."""

    def __init__(self, depth: int, backend: Backend, dense_ms: float | None = None) -> None:
        self.network, self.graph, self.scores = _prepared(depth)
        self.plan = Plan(self.network, self.graph.groups, {"l1": self.scores})
        self.latency = Latency(backend=backend)
        self.example = torch.randn(1, 3, 32, 32)
        known = {} if dense_ms is None else {"latency_ms": Measurement(dense_ms)}
        self.dense = self._subject(Policy(), self.network, known=known)
        if dense_ms is None:
            found = self.measure(Policy())
            self.dense = self._subject(Policy(), self.network, known={"latency_ms": found})
        self.dense_ms = self.dense.known["latency_ms"].value

    def _subject(self, policy: Policy, network: torch.nn.Module, **more: Any) -> Subject:
        costs = self.graph.costs.costs(policy)
        return Subject(costs, network=network, example=self.example, **more)

    def measure(self, policy: Policy) -> Measurement:
        """Carve and measure."""
        subject = self._subject(policy, self.plan.carve(policy), dense=self.dense)
        return self.latency.measure(subject)

    def lost(self, policy: Policy) -> float:
        """Return the share of L1 magnitude that a policy removes, the mean over groups."""
        kept = self.graph.groups.kept_units(policy)
        shares = [
            1 - np.sort(each)[-kept[name] :].sum() / each.sum()
            for name, each in self.scores.items()
        ]
        return float(np.mean(shares))


@cache
def _prepared(depth: int) -> tuple[torch.nn.Module, NetworkGraph, Any]:
    weights = os.environ.get(f"AUTOPRUNE_RESNET{depth}")
    spec = ModelSpec(name=f"cifar_resnet{depth}", checkpoint=weights)
    network = to_layout(build_model(spec, 10, (3, 32, 32)), torch.device("cpu"))
    graph = examine(network, torch.randn(2, 3, 32, 32)).graph
    return network, graph, score_groups(L1(), Evidence(network, graph.groups)).scores


def drawn(graph: NetworkGraph, count: int) -> list[Policy]:
    """Return random policies over all groups."""
    rng = random.Random(0)
    names = [group.name for group in graph.groups.prunable]
    ratios = ({name: rng.uniform(0.1, 1.0) for name in names} for _ in range(count))
    return [graph.groups.canonical(Policy.from_keep_ratios(each)) for each in ratios]


def predictions(
    bench: Bench, policies: Sequence[Policy]
) -> tuple[dict[str, Any], list[Measurement]]:
    """Predict, measure and learn every policy in turn; return the figures and what was found."""
    start = time.perf_counter()
    survey = bench.latency.survey(bench.dense)
    survey_s = time.perf_counter() - start
    predictor = bench.latency.predictor(survey, bench.graph.costs)
    predictor.learn(Policy(), bench.dense.known["latency_ms"])
    expected, measured, seconds = [], [], []
    for policy in policies:
        expected.append(predictor.predict(policy))
        start = time.perf_counter()
        measured.append(bench.measure(policy))
        seconds.append(time.perf_counter() - start)
        predictor.learn(policy, measured[-1])
    pairs = list(zip(expected, measured, strict=True))
    macs = [bench.graph.costs.costs(policy).macs for policy in policies]
    values = [each.value for each in measured]
    errors = [abs(one.value / other.value - 1) for one, other in pairs]
    inside = [one.low <= other.value <= one.high for one, other in pairs]  # type: ignore[operator]
    figures = {
        "survey_s": survey_s,
        "mape": statistics.mean(errors),
        "mape_of_first_ten": statistics.mean(errors[:10]),
        "spearman": spearmanr([each.value for each in expected], values).statistic,
        "spearman_of_macs": spearmanr(macs, values).statistic,
        "inside_interval": statistics.mean(inside),
        "measurement_s": statistics.median(seconds),
        "interval_width": statistics.median((x.high - x.low) / x.value for x in measured),  # type: ignore[operator]
        "too_noisy": sum("too noisy" in each.note for each in measured),
        "slower_with_fewer_macs": sum("slower" in each.note for each in measured),
    }
    return figures, measured


def fronts(
    bench: Bench, policies: Sequence[Policy], measured: Sequence[Measurement]
) -> dict[str, Any]:
    """Compare the front by latency with that by macs, both measured anew elsewhere."""
    ms = [each.value for each in measured]
    by_ms = _front(bench, policies, ms, _MS)
    by_macs = _front(bench, policies, ms, _MACS)
    chosen = sorted({*by_ms, *by_macs})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        bodies = [policies[x].to_json() for x in chosen]
        again = pool.submit(measured_anew, bench.latency.backend, bench.dense_ms, bodies).result()
    fresh = dict(zip(chosen, again, strict=True))
    differences = [abs(fresh[x] / ms[x] - 1) for x in chosen]
    volumes = {
        name: _volume(bench, [policies[x] for x in members], [fresh[x] for x in members])
        for name, members in (("front_by_latency", by_ms), ("front_by_macs", by_macs))
    }
    return {
        "members_by_latency": len(by_ms),
        "members_by_macs": len(by_macs),
        "members_of_both": len({*by_ms} & {*by_macs}),
        **{f"hypervolume_of_{name}": each for name, each in volumes.items()},
        "again_differs_median": statistics.median(differences),
        "again_differs_most": max(differences),
    }


def measured_anew(backend: Backend, dense_ms: float, bodies: list[Any]) -> list[float]:
    """Return the latencies of policies, measured in this process."""
    torch.set_num_threads(1)
    bench = Bench(20, backend, dense_ms)
    return [bench.measure(Policy.from_json(body)).value for body in bodies]


def _front(bench: Bench, policies: Sequence[Policy], ms: Iterable[float], goal: Goal) -> list[int]:
    front = Front.of(_trials(bench, policies, ms), (_LOST, goal))
    return [trial.number for trial in front.members]


def _volume(bench: Bench, policies: Sequence[Policy], ms: Iterable[float]) -> float:
    goals = Goal("lost", "", "min", 1.0), Goal("latency_ms", "", "min", bench.dense_ms)
    return Front.of(_trials(bench, policies, ms), goals).hypervolume()


def _trials(bench: Bench, policies: Sequence[Policy], ms: Iterable[float]) -> list[Trial]:
    trials = []
    for number, (policy, value) in enumerate(zip(policies, ms, strict=True)):
        macs = float(bench.graph.costs.costs(policy).macs)
        values = {"lost": bench.lost(policy), "latency_ms": value, "macs": macs}
        evaluation = Evaluation({name: Measurement(each) for name, each in values.items()})
        state = TrialState.COMPLETED
        trials.append(Trial(number, policy, "random", state=state, evaluation=evaluation))
    return trials


def inner_channels(backend: Backend) -> dict[str, Any]:
    """Return the time of ResNet-56 with some inner channels removed, as a share of dense."""
    bench = Bench(56, backend)
    inner = [x.name for x in bench.graph.groups.prunable if ".conv1" in x.name]
    body: dict[str, Any] = {"dense_ms": bench.dense_ms}
    for keep_ratio in (0.9, 0.7, 0.5):
        ratios = dict.fromkeys(inner, keep_ratio)
        policy = bench.graph.groups.canonical(Policy.from_keep_ratios(ratios))
        ratio = bench.measure(policy).parts["ratio"]
        body[f"keep_{keep_ratio}"] = [ratio.value, ratio.low, ratio.high]
    return body


def main() -> None:
    """Print the figures as JSON, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=60)
    parser.add_argument(
        "--backends", nargs="+", choices=get_args(Backend), default=["torch", "onnx", "openvino"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"processor": processor_name()}))
    for backend in options.backends:
        bench = Bench(20, backend)
        policies = drawn(bench.graph, options.policies)
        figures, measured = predictions(bench, policies)
        _print(backend, "resnet20", {"dense_ms": bench.dense_ms, **figures})
        _print(backend, "fronts", fronts(bench, policies, measured))
        liked = preferred_multiple(create(backend), bench.network, bench.example)
        relative = {str(each): share for each, share in liked.relative.items()}
        _print(backend, "multiple", {"liked": liked.multiple, **relative})
        _print(backend, "resnet56", inner_channels(backend))


def _print(backend: str, what: str, body: dict[str, Any]) -> None:
    rounded = json.loads(json.dumps(body), parse_float=lambda text: round(float(text), 4))
    print(json.dumps({"backend": backend, "what": what, **rounded}), flush=True)


if __name__ == "__main__":
    main()
