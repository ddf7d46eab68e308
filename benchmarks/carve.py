"""Carving a candidate against `copy.deepcopy` and Torch-Pruning's pruner, same ratios.

    python -m benchmarks.carve

ResNet-56 (inner channels only: Torch-Pruning breaks padded shortcuts) and torchvision's
ResNet-50 (all groups). Rounds alternate; figures are medians of 50. Torch-Pruning prunes in
place, so a candidate is a deep copy, a pruner that traces it, and one step. Beside them:
peak extra memory of carving over the candidate's own weights, discovery, proof, and the
reconstruction of all layers of ResNet-56.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from autoprune.models.cifar_resnet import CifarResNet
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.surgery.reconstruct import Moments, reconstruct
from autoprune.tracing.discovery import discover
from autoprune.vision import ensure_torchvision

ROUNDS = 50
KEEP_RATIO = 0.5


def main() -> None:
    """Print the figures of both networks as JSON, one line each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ensure_torchvision()
    from torchvision.models import resnet50

    print(json.dumps(compare("resnet56", CifarResNet(56).eval(), torch.randn(2, 3, 32, 32))))
    print(json.dumps(compare("resnet50", resnet50().eval(), torch.randn(2, 3, 224, 224))))


def compare(name: str, model: nn.Module, example: Tensor) -> dict[str, Any]:
    """Time both ways to a candidate in turn and return medians."""
    start = time.perf_counter()
    graph = discover(model, example)
    discovered = time.perf_counter() - start
    groups = prove(model, graph.groups, example).groups
    proven = time.perf_counter() - start - discovered
    plan = plan_by("l1", Evidence(model, groups))
    inner_only = name == "resnet56"
    chosen = [x.name for x in groups.prunable if not inner_only or x.name.endswith("conv1")]
    chosen = [each for each in chosen if not inner_only or "." in each]
    policy = groups.canonical(Policy.from_keep_ratios(dict.fromkeys(chosen, KEEP_RATIO)))

    def ours() -> nn.Module:
        return plan.carve(policy)

    def theirs() -> nn.Module:
        return _torch_pruning(model, example, chosen if inner_only else None)

    laps: dict[str, list[float]] = {"carve_s": [], "torch_pruning_s": []}
    for _ in range(ROUNDS):
        for key, make in (("carve_s", ours), ("torch_pruning_s", theirs)):
            laps[key].append(_seconds(make))
    medians = {key: statistics.median(each) for key, each in laps.items()}
    parameters = sum(each.numel() for each in ours().parameters())
    body = {
        "network": name,
        **{key: round(value, 5) for key, value in medians.items()},
        "faster": round(medians["torch_pruning_s"] / medians["carve_s"], 1),
        "params": parameters,
        "torch_pruning_params": sum(each.numel() for each in theirs().parameters()),
        "peak_extra_memory": round(_peak_bytes(ours) / (4 * parameters), 3),
        "discovery_s": round(discovered, 2),
        "proof_s": round(proven, 2),
    }
    if name == "resnet56":
        body |= _reconstruction(plan, policy)
    return body


def _torch_pruning(model: nn.Module, example: Tensor, only: list[str] | None) -> nn.Module:
    """Prune a deep copy with Torch-Pruning, like its README: build the pruner, step once."""
    twin = copy.deepcopy(model)
    modules = dict(twin.named_modules())
    layers = [x for x in modules.values() if isinstance(x, nn.Conv2d | nn.Linear)]
    kept = {modules[name] for name in only} if only else set(layers[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            twin,
            example,
            importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=1.0 - KEEP_RATIO,
            ignored_layers=[x for x in layers if x not in kept],
        )
        pruner.step()
    return twin


def _reconstruction(plan: Plan, policy: Policy) -> dict[str, float]:
    start = time.perf_counter()
    images = [torch.randn(128, 3, 32, 32) for _ in range(2)]
    moments = Moments.gather(plan.model, plan.groups, images)
    gathered = time.perf_counter() - start
    full = plan.groups.canonical(
        Policy.from_keep_ratios({each.name: KEEP_RATIO for each in plan.groups.prunable})
    )
    laps = {"reconstruct_inner_s": policy, "reconstruct_all_s": full}
    return {"moments_s": round(gathered, 2)} | {
        key: round(statistics.median(_solving(plan, each, moments) for _ in range(10)), 3)
        for key, each in laps.items()
    }


def _solving(plan: Plan, policy: Policy, moments: Moments) -> float:
    network = plan.carve(policy)
    return _seconds(lambda: reconstruct(network, plan, policy, moments))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_bytes(run: Callable[[], nn.Module]) -> int:
    """Return the most bytes of tensors that lived at once while `run` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
    assert result is not None
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((x for x in events if x.name() == "[memory]"), key=lambda x: x.start_ns())
    live = peak = 0
    for each in memory:
        live += each.nbytes()
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
