"""What repair without training is worth: ResNet-56 at half of its macs, judged on T.

    python -m benchmarks.repair           # CIFAR-10 and weights as in examples/

L1 ranks the channels; every group keeps the same share. `inner` prunes the first
convolution of every block, `all` the stage widths as well. T are the 5,000 test images that
no search has seen.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from autoprune.contracts.executor import WorkItem
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Policy
from autoprune.preflight import preflight
from autoprune.validation import validated

ROOT = Path(__file__).resolve().parents[1]
REPAIRS = ("none", "bn", "ridge", "both")
MACS_SHARE = 0.5


def main() -> None:
    """Print the error on T of every space and repair as JSON, one line each."""
    torch.set_num_threads(1)
    data = ROOT.parent / "shared" / "data"
    cifar = os.environ.get("AUTOPRUNE_CIFAR10", str(data / "cifar10.npz"))
    weights = os.environ.get("AUTOPRUNE_RESNET56", str(data / "resnet56-4bfd9763.th"))
    found = preflight(
        validated(
            {
                "model": {"name": "cifar_resnet56", "checkpoint": weights},
                "data": {
                    "name": "cifar10",
                    "path": cifar,
                    "splits": {"source": "test", "search": 5000, "report": 5000, "seed": 0},
                },
                "rungs": [{"repair": each, "ridge_images": 1000} for each in REPAIRS],
            }
        )
    )
    evaluator = NetworkEvaluator(job=found.job.to_json(), preparation=found.preparation.to_json())
    graph = found.preparation.graph
    prunable = [group.name for group in graph.groups.prunable]
    inner = [name for name in prunable if name.endswith(".conv1")]
    dense = evaluator.evaluate(WorkItem(0, Policy(), split="report")).value("error")
    print(json.dumps({"network": "dense", "error_on_T": round(dense, 4)}))
    for space, names in (("inner", inner), ("all", prunable)):
        policy = uniform(graph, names)
        costs = graph.costs.costs(policy)
        errors = {
            repair: evaluator.evaluate(WorkItem(0, policy, rung, "report")).value("error")
            for rung, repair in enumerate(REPAIRS)
        }
        share = costs.macs / found.dense.macs
        body = {"network": space, "macs_share": round(share, 4)}
        print(json.dumps(body | {key: round(value, 4) for key, value in errors.items()}))


def uniform(graph: NetworkGraph, names: list[str]) -> Policy:
    """Return the policy with one keep_ratio for all of `names` whose macs are nearest."""
    dense = graph.costs.costs(Policy()).macs
    candidates = [
        graph.groups.canonical(Policy.from_keep_ratios(dict.fromkeys(names, step / 64)))
        for step in range(1, 65)
    ]
    return min(candidates, key=lambda one: abs(graph.costs.costs(one).macs - MACS_SHARE * dense))


if __name__ == "__main__":
    main()
