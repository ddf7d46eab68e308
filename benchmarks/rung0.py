"""Rung 0 of a ResNet-20 candidate against the bare forward passes over the same images.

    python -m benchmarks.rung0            # CIFAR-10 and weights as in examples/

The candidate is carved, its batch norms are taken anew on 1,000 images, and 2,000 images
judge it. The bare passes run the carved network, as it is, over the same 3,000 images in
the same number format and layout; float32 passes stand beside them. Rounds alternate. At the
end all objectives that need only outputs, three groupings at once, against the pass itself.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autoprune.contracts.executor import WorkItem
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.inference import cast, predict
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.validation import load_job, validated

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 7
KEEP_RATIOS = (0.25, 0.5, 0.75)


OUTPUTS = [
    "error",
    "loss",
    "worst_group_error",
    "accuracy_gap",
    "equalized_odds",
    "demographic_parity",
    "prune_disparity",
    "calibration_error",
    "brier",
    "churn",
]


def main() -> None:
    """Print the figures as JSON, one line per width."""
    torch.set_num_threads(1)
    data = ROOT.parent / "shared" / "data"
    os.environ.setdefault("AUTOPRUNE_CIFAR10", str(data / "cifar10.npz"))
    os.environ.setdefault("AUTOPRUNE_RESNET20", str(data / "resnet20-12fca82f.th"))
    found = preflight(load_job(ROOT / "examples" / "cifar10_resnet20.yaml"))
    evaluator = NetworkEvaluator(job=found.job.to_json(), preparation=found.preparation.to_json())
    groups = found.preparation.graph.groups
    dtype = found.preparation.dtype
    for keep_ratio in KEEP_RATIOS:
        ratios = {group.name: keep_ratio for group in groups.prunable}
        policy = groups.canonical(Policy.from_keep_ratios(ratios))
        print(json.dumps(compare(evaluator, policy, dtype) | {"keep_ratio": keep_ratio}))
    print(json.dumps(share_of_objectives(found.job)))


def share_of_objectives(job: Job) -> dict[str, object]:
    """Return the seconds of every objective of outputs, and of the pass that they come from."""
    with tempfile.TemporaryDirectory() as directory:
        attribute = Path(directory) / "half.npy"
        np.save(attribute, np.arange(10_000) % 2)
        body = job.to_json()
        body["data"] |= {
            "attributes": {"half": str(attribute)},
            "groups": ["class", "half", "class & half"],
        }
        body |= {"objectives": OUTPUTS}
        found = preflight(validated(body))
        evaluator = NetworkEvaluator(
            job=found.job.to_json(), preparation=found.preparation.to_json()
        )
    groups = found.preparation.graph.groups
    policy = groups.canonical(Policy.from_keep_ratios({x.name: 0.5 for x in groups.prunable}))
    phases = [evaluator.evaluate(WorkItem(1, policy)).phases_s for _ in range(ROUNDS + 1)][1:]
    measure, passes = (
        statistics.median(x[name] for x in phases) for name in ("measure", "predict")
    )
    return {
        "objectives": len(OUTPUTS),
        "measure_s": measure,
        "pass_s": passes,
        "share": measure / passes,
    }


def compare(evaluator: NetworkEvaluator, policy: Policy, dtype: torch.dtype) -> dict[str, object]:
    """Time the rung and the bare passes in turn; return medians and their ratio."""
    item = WorkItem(0, policy)
    carved = evaluator.bench.plan.carve(policy)
    train = evaluator.judge.inputs("train", 1000, dtype)
    images = [*train, *evaluator.judge.inputs("search", 2000, dtype)]
    exact = [batch.float() for batch in images]
    forms = {"rung0_s": lambda: evaluator.evaluate(item)}
    bare = cast(carved, dtype)
    forms["bare_s"] = lambda: predict(bare, images)
    forms["bare_float32_s"] = lambda: predict(carved, exact)
    laps: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS + 1):
        for name, run in forms.items():
            start = time.perf_counter()
            run()
            laps[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each[1:]) for name, each in laps.items()}
    return {
        **{name: round(value, 3) for name, value in medians.items()},
        "dtype": str(dtype),
        "ratio": round(medians["rung0_s"] / medians["bare_s"], 3),
        "target_ratio": 1.3,
    }


if __name__ == "__main__":
    main()
