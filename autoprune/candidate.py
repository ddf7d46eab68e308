"""Networks ready to leave: from the log and the files of a run, or from a policy alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.exporter import Candidate, Cut, versions
from autoprune.controller.roster import seed_of
from autoprune.data.dataset import Part
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.workbench import Workbench
from autoprune.fidelity import policy_at
from autoprune.policy import Policy
from autoprune.run_view import RunView
from autoprune.trial import Measurement, Trial, shown

_EXAMPLES = 16
_HASHED = 64


def candidate_of(run: RunView, trial: Trial, files: Path) -> Candidate:
    """Return the trial's network in float32 on the CPU, with real inputs and its provenance.

    Reported trials load the weights that were measured; others are made again from their
    seed, which trains them again where their rung trains.
    """
    job = {**run.job.to_json(), "resources": {**run.job.to_json()["resources"], "device": "cpu"}}
    evaluator = NetworkEvaluator(job=job, preparation=run.preparation, files=str(files))
    item = WorkItem(
        trial.number,
        trial.policy,
        trial.rung,
        "report" if trial.report else "search",
        seed_of(run.job.seed, f"trial {trial.number}"),
    )
    weights = shown(trial).weights
    if weights is not None:
        network = evaluator.builder.stored(run.as_evaluated(trial), weights)
    else:
        network = evaluator.network(item, torch.float32)
    said = {"job": run.job.name, "trial": trial.number}
    return ready(network, evaluator.bench, item, shown(trial).measurements, said)


def ready(
    network: nn.Module,
    bench: Workbench,
    item: WorkItem,
    measured: Mapping[str, Measurement],
    said: Mapping[str, Any],
) -> Candidate:
    """Return a network of a workbench as a candidate; both go to the CPU.

    `measured` was measured on the item's split; `said` is added to the provenance.
    """
    network.cpu().eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    dataset, groups = bench.dataset, bench.preparation.graph.groups
    policy = policy_at(bench.job, groups, item.policy, item.rung)
    inputs = dataset.normalise(dataset.report.inputs[:_EXAMPLES])
    facts = {**_facts(bench, item, policy), **_claims(bench, item, measured), **said}
    return Candidate(
        network,
        inputs.contiguous(),
        facts,
        dataset.normalise(dataset.train.inputs[: bench.job.quantization.images]),
        Cut(bench.model.cpu(), groups, policy, bench.plan.kept_entries(policy)),
    )


def digest_of(part: Part, count: int) -> str:
    """Return a SHA-256 that tells the first `count` samples of a part from others.

    It is that of all labels and of some inputs, so that it takes no time for large images.
    """
    found = hashlib.sha256(part.labels[:count].numpy().tobytes())
    step = max(1, count // _HASHED)
    found.update(part.inputs[:count:step].contiguous().numpy().tobytes())
    return found.hexdigest()


def _facts(bench: Workbench, item: WorkItem, policy: Policy) -> dict[str, Any]:
    """Return what builds the network again."""
    job, graph = bench.job.to_json(), bench.preparation.graph
    return {
        "policy": policy.to_json(),
        "policy_sha256": item.policy.sha256,
        "model": job["model"],
        "groups": graph.groups.to_json(),
        "kept": graph.groups.placed(bench.plan.kept_units(policy)),
        "architecture": graph.groups.fingerprint,
        "foldable": [list(pair) for pair in graph.foldable],
        "num_classes": bench.preparation.num_classes,
        "input_shape": list(bench.dataset.input_shape),
        "rung": job["rungs"][item.rung],
        "quantization": job["quantization"],
        "seed": bench.job.seed,
        "versions": versions(),
    }


def _claims(
    bench: Workbench, item: WorkItem, measured: Mapping[str, Measurement]
) -> dict[str, Any]:
    """Return what was measured, and on which samples: what `autoprune verify` measures again."""
    job, part = bench.job.to_json(), bench.part(item.split)
    limit = None if item.split == "report" else bench.job.rungs[item.rung].images
    count = min(limit or len(part), len(part))
    return {
        "data": job["data"],
        "objectives": job["objectives"],
        "constraints": job["constraints"],
        "split": item.split,
        "samples": count,
        "samples_sha256": digest_of(part, count),
        "measurements": {name: each.to_json()[:3] for name, each in measured.items()},
    }
