"""Sparsity and bits searched together, one after the other, and bits alone: ResNet-20.

    python -m benchmarks.joint                    # five seeds without training
    python -m benchmarks.joint --recovered 3      # and the best of three seeds, trained
    python -m benchmarks.joint --distillation 3   # what a teacher adds, at equal steps
    python -m benchmarks.joint --repairs          # what each repair mends, without training

Every method gets the same evaluations (error on 1,000 images of V; kernels reconstructed,
kernels of 2 to 8 bits rounded adaptively, 8-bit activations) and the same searcher:

    joint       units and bits in one space
    one by one  units for half of the evaluations; then, of three networks of that front (those
                nearest to 3/4, 1/2 and 1/3 of the bytes), the bits, for a sixth each
    bits        bits alone

Of each run the best network on V within 1/8 and 1/12 of the dense bytes is judged on T
(5,000 images), and the front by its hypervolume over error on T, bytes and milliseconds of
whole numbers under ONNX Runtime, as a share of the box up to 0.9, the dense bytes and the
dense milliseconds in float32. `--recovered` trains that network for 200 steps as it will be
rounded, with the dense one as teacher, before it is judged on T.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import moocore
import numpy as np

from autoprune import plugins
from autoprune.contracts.objective import Subject
from autoprune.contracts.searcher import Searcher
from autoprune.job.spec import PluginSpec
from autoprune.objectives.latency import Latency
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.space import SearchSpace
from autoprune.trial import Evaluation, Trial, TrialState
from benchmarks.recorded import ROOT, RecordedNetwork

BITS = [2, 3, 4, 5, 6, 8]
SHARES = {"1/8": 1 / 8, "1/12": 1 / 12}
WANTED = (3 / 4, 1 / 2, 1 / 3)
TRAINED = {
    "finetune_steps": 200,
    "repair": "ridge",
    "recovery": {"name": "finetune", "mixed_precision": True},
}
_network: RecordedNetwork | None = None

Found = dict[Policy, Evaluation]


def network(table: Path) -> RecordedNetwork:
    """Return ResNet-20 on the mixed space, without training and with."""
    rung = {"repair": "ridge", "images": 1000, "rounding": "adaptive"}
    trained = {**TRAINED, "images": 1000, "distill": {"cached": True}}
    more = {
        "objectives": ["error", "size_bytes"],
        "space": {
            "name": "mixed",
            "include": ["layer*.conv1"],
            "keep_ratio": [0.2, 1],
            "bits": BITS,
        },
        "rungs": [rung, trained, {**trained, "distill": False}],
        "quantization": {"images": 128},
    }
    return RecordedNetwork("resnet20", table, reported=5000, more=more)


def space(of: RecordedNetwork, **options: Any) -> SearchSpace:
    """Return a space over the network's inner channels."""
    name = options.pop("name", "mixed")
    spec = PluginSpec(name=name, options={"include": ["layer*.conv1"], **options})
    made: SearchSpace = plugins.create("space", spec, of.preparation.graph.groups)
    return made


def searched(
    of: RecordedNetwork,
    where: SearchSpace,
    trials: int,
    seed: int,
    made: Callable[[Policy], Policy] = lambda policy: policy,
) -> Found:
    """Search a space with the portfolio; `made` is what becomes of its policies."""
    problem = of.problem(trials, where)
    searcher: Searcher = plugins.create(
        "searcher", PluginSpec(name="portfolio"), problem, seed=seed
    )
    found: Found = {}
    for number in range(1, 20 * trials):
        asked = searcher.ask(1)
        if not asked or len(found) >= trials:
            break
        policy = problem.groups.canonical(asked[0])
        whole = problem.groups.canonical(made(policy))
        evaluation = found[whole] = of.evaluate(whole)
        done = TrialState.COMPLETED
        searcher.tell(Trial(number, policy, "portfolio", 0, done, evaluation=evaluation))
    return found


def joint(of: RecordedNetwork, trials: int, seed: int) -> Found:
    """Search units and bits together."""
    return searched(of, space(of, keep_ratio=[0.2, 1], bits=BITS), trials, seed)


def one_by_one(of: RecordedNetwork, trials: int, seed: int) -> Found:
    """Search units, then bits of three networks of that front."""
    pruned = searched(of, space(of, name="layerwise", keep_ratio=[0.2, 1]), trials // 2, seed)
    dense = of.evaluate(Policy()).value("size_bytes")
    front = [x for x, y in zip(pruned, nondominated(pruned), strict=True) if y]
    found: Found = {}
    for wanted in WANTED:
        one = min(front, key=lambda x: abs(pruned[x].value("size_bytes") / dense - wanted))
        where = space(of, keep_ratio=[1, 1], bits=BITS)
        merged = lambda bits, one=one: replace(bits, decisions=one.decisions)  # noqa: E731
        found |= searched(of, where, trials // 6, seed, merged)
    return found


def bits(of: RecordedNetwork, trials: int, seed: int) -> Found:
    """Search bits alone."""
    return searched(of, space(of, keep_ratio=[1, 1], bits=BITS), trials, seed)


METHODS = {"joint": joint, "one by one": one_by_one, "bits": bits}


def nondominated(found: Found) -> np.ndarray:
    """Say which networks no other one beats in error on V and bytes, shape (n,)."""
    points = [[x.value("error"), x.value("size_bytes")] for x in found.values()]
    mask: np.ndarray = moocore.is_nondominated(np.array(points))
    return mask


def best(of: RecordedNetwork, found: Found, share: float) -> Policy | None:
    """Return the best network on V within a share of the dense bytes; None without any."""
    most = share * of.evaluate(Policy()).value("size_bytes")
    within = [x for x, y in found.items() if y.value("size_bytes") <= most]
    return min(within, key=lambda x: found[x].value("error"), default=None)


def volume(of: RecordedNetwork, front: Sequence[Policy], timer: Timer) -> float:
    """Return the hypervolume of a front over error on T, bytes and milliseconds."""
    dense = of.evaluate(Policy()).value("size_bytes")
    points = np.array(
        [
            [of.report(x).value("error") / 0.9, of.report(x).value("size_bytes") / dense, timer(x)]
            for x in front
        ]
    )
    return float(moocore.hypervolume(points[(points < 1).all(axis=1)], ref=[1.0, 1.0, 1.0]))


class Timer:
    """Times whole numbers under ONNX Runtime, as a share of the dense network in float32."""

    def __init__(self, of: RecordedNetwork) -> None:
        self._of = of
        self._latency = Latency(backend="onnx", seconds=1.0)

    def __call__(self, policy: Policy) -> float:
        """Return how long a network takes, as a share of the dense one's milliseconds."""
        bench, costs = self._of.evaluator.bench, self._of.preparation.graph.costs
        form = self._of.evaluator.builder.form
        dense = Subject(costs.costs(Policy()), network=bench.model, example=bench.example)
        own = Subject(costs.costs(policy), network=form(policy), example=bench.example, dense=dense)
        return self._latency.measure(own).parts["ratio"].value


def perform(task: tuple[str, int, int, bool]) -> dict[str, Any]:
    """Run one method with one seed in this process, or train what it found."""
    method, seed, trials, is_trained = task
    assert _network is not None
    found = METHODS[method](_network, trials, seed)
    result: dict[str, Any] = {"method": method, "seed": seed, "trained": is_trained}
    for name, share in SHARES.items():
        chosen = best(_network, found, share)
        if chosen is not None:
            result[name] = _network.report(chosen, int(is_trained), seed).value("error")
    if not is_trained:
        front = [x for x, y in zip(found, nondominated(found), strict=True) if y]
        for each in front:
            _network.report(each)
        result["front"] = [each.to_json() for each in front]
    return result


def _start(table: str) -> None:
    global _network
    _network = network(Path(table))


def table_of(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, medians and quartiles."""
    columns = [name for name in (*SHARES, "hypervolume") if any(name in x for x in results)]
    yield f"| method | {' | '.join(f'error on T at {x}' if x in SHARES else x for x in columns)} |"
    yield "|---|" + "---|" * len(columns)
    for method in METHODS:
        rows = [x for x in results if x["method"] == method]
        cells = [_quartiles([x[name] for x in rows if name in x], name) for name in columns]
        yield f"| {method} | {' | '.join(cells)} |"


def _quartiles(values: Sequence[float], name: str) -> str:
    if not values:
        return "none"
    scale, form = (1.0, "{:.4f}") if name == "hypervolume" else (100.0, "{:.2f} %")
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]) * scale
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def even(of: RecordedNetwork, keep_ratio: float, bits: int, **recipe: Any) -> Policy:
    """Return the policy that treats all inner channels, and all kernels, alike."""
    groups = of.preparation.graph.groups
    inner = [x.name for x in groups.prunable if x.name.endswith("conv1") and "layer" in x.name]
    layers = {x.name: LayerDecision(bits, 8) for x in groups.layers if x.reason is None}
    pruned = Policy.from_keep_ratios(dict.fromkeys(inner, keep_ratio))
    return groups.canonical(replace(pruned, layers=layers, recipe=Recipe(**recipe)))


def repairs(of: RecordedNetwork) -> Iterator[str]:
    """Yield the errors on T of networks that are repaired in every way, not trained."""
    for keep_ratio, bits in ((0.96, 8), (0.8, 8), (0.8, 3), (0.6, 8), (0.4, 8)):
        for repair in ("none", "bn", "ridge", "both"):
            error = of.report(even(of, keep_ratio, bits, repair=repair)).value("error")
            yield f"keep {keep_ratio}, {bits} bits, repair {repair}: {100 * error:.2f} %"


def distillation(of: RecordedNetwork, seeds: int) -> Iterator[str]:
    """Yield the errors on T of one network, trained with a teacher and without."""
    policy = even(of, 0.5, 4)
    for rung, name in ((0, "not trained"), (2, "200 steps"), (1, "200 steps with a teacher")):
        errors = [of.report(policy, rung, seed).value("error") for seed in range(seeds)]
        each = ", ".join(f"{100 * error:.2f}" for error in errors)
        yield f"{name}: {100 * statistics.mean(errors):.2f} % ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recovered", type=int, default=0)
    parser.add_argument("--distillation", type=int, default=0)
    parser.add_argument("--repairs", action="store_true")
    parser.add_argument("--table", default=str(ROOT / "runs" / "joint.sqlite"))
    args = parser.parse_args()
    own = network(Path(args.table))
    if args.repairs or args.distillation:
        print("\n".join(repairs(own) if args.repairs else distillation(own, args.distillation)))
        return
    seeds = args.recovered or args.seeds
    tasks = [(x, seed, args.trials, args.recovered > 0) for seed in range(seeds) for x in METHODS]
    with multiprocessing.get_context("spawn").Pool(2, _start, (args.table,)) as pool:
        results = list(pool.imap_unordered(perform, tasks))
    timer = Timer(own)
    for each in results:
        if "front" in each:  # timed where nothing else runs
            policies = [Policy.from_json(x) for x in each.pop("front")]
            each["hypervolume"] = volume(own, policies, timer)
    with Path(args.table).with_suffix(".jsonl").open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in results)
    print("\n".join(table_of(results)))


if __name__ == "__main__":
    main()
