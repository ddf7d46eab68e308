"""The network of a trial, ready to leave: from the log and the files of a run."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.exporter import Candidate, Cut
from autoprune.controller.roster import seed_of
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.run_view import RunView
from autoprune.trial import Trial, shown

_EXAMPLES = 16


def candidate_of(run: RunView, trial: Trial, files: Path) -> Candidate:
    """Return the trial's network in float32 on the CPU, with real inputs and its provenance.

    Reported trials load the weights that were measured; others are made again from their
    seed, which trains them again where their rung trains.
    """
    job = {**run.job.to_json(), "resources": {**run.job.to_json()["resources"], "device": "cpu"}}
    evaluator = NetworkEvaluator(job=job, preparation=run.preparation, files=str(files))
    bench = evaluator.bench
    weights = shown(trial).weights
    if weights is not None:
        network = evaluator.builder.stored(run.as_evaluated(trial), weights)
    else:
        seed = seed_of(run.job.seed, f"trial {trial.number}")
        item = WorkItem(trial.number, trial.policy, trial.rung, "report", seed)
        network = evaluator.network(item, torch.float32)
    network.eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    inputs = bench.dataset.normalise(bench.dataset.report.inputs[:_EXAMPLES])
    count = run.job.quantization.images
    policy = run.as_evaluated(trial)
    return Candidate(
        network,
        inputs.contiguous(),
        _provenance(run, trial, bench.dataset.input_shape),
        bench.dataset.normalise(bench.dataset.train.inputs[:count]),
        Cut(bench.model, bench.plan.groups, policy, bench.plan.kept_entries(policy)),
    )


def _provenance(run: RunView, trial: Trial, input_shape: tuple[int, ...]) -> dict[str, Any]:
    measured = shown(trial).measurements
    return {
        "job": run.job.name,
        "trial": trial.number,
        "policy": run.as_evaluated(trial).to_json(),
        "policy_sha256": trial.policy.sha256,
        "model": run.job.to_json()["model"],
        "groups": run.preparation["graph"]["groups"],
        "architecture": run.graph.groups.fingerprint,
        "foldable": run.preparation["graph"]["foldable"],
        "num_classes": run.preparation["num_classes"],
        "input_shape": list(input_shape),
        "data": run.job.to_json()["data"],
        "split": "report" if trial.report else "search",
        "measurements": {name: each.value for name, each in measured.items()},
        "versions": {name: version(name) for name in ("autoprune", "torch")},
    }
