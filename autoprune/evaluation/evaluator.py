"""The evaluator: one warm process that prunes, repairs, recovers and measures candidates.

Everything that candidates share is built once: the model on its device, the plan with its
scores, second moments, the images in their final layout. A candidate is then built
(`evaluation.builder`), judged, and measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.artifacts import remove_artifact
from autoprune.contracts.executor import Evaluator, WorkItem
from autoprune.contracts.training import TrainingItem, TrainingProgress
from autoprune.errors import RunError
from autoprune.evaluation.builder import Builder
from autoprune.evaluation.clock import Clock
from autoprune.evaluation.deployment import Deployer
from autoprune.evaluation.generation import train_slice
from autoprune.evaluation.judge import Judge
from autoprune.evaluation.material import Material
from autoprune.evaluation.preparation import Preparation
from autoprune.evaluation.weights import save_weights
from autoprune.evaluation.workbench import Workbench
from autoprune.fidelity import policy_at
from autoprune.metrics import metrics_of
from autoprune.trial import Deployment, Evaluation, Measurement


class NetworkEvaluator(Evaluator):
    """Evaluates policies of one job, and trains what generates weights for them.

    `files` is where weights of reported trials and checkpoints of training go; `material` is
    the job's data and weights, read from where the job says if it is not given.
    """

    def __init__(
        self,
        *,
        job: Mapping[str, Any],
        preparation: Mapping[str, Any],
        files: str | None = None,
        material: Material | None = None,
    ) -> None:
        self.bench = Workbench(job, Preparation.from_json(preparation), material)
        self.files = Path(files) if files else None
        self.judge = Judge(self.bench, metrics_of(self.bench.job))
        self.builder = Builder(self.bench, self.judge.inputs, self.files)
        self.deployer = Deployer(self.bench, self.judge)

    @property
    def needs_probe(self) -> bool:
        """Say whether a metric needs the carved network in an exclusive process."""
        return self.judge.needs_probe

    @property
    def device(self) -> str:
        """Name of the device that everything is measured on."""
        return self.bench.device_name

    def evaluate(self, item: WorkItem) -> Evaluation:
        """Prune, repair, recover and measure on the item's split.

        The report split is judged in float32 on every image; the trial's weights are then
        kept, named by their hash, as are those of networks that may teach others. Raises
        `NonFiniteError`, `PolicyError`.
        """
        item, clock = self._as_evaluated(item), Clock()
        dtype = torch.float32 if item.split == "report" else self.bench.preparation.dtype
        network = self.builder.build(item, dtype, clock)
        weights = None
        if self.files is not None and (item.split == "report" or self._may_teach(item)):
            weights = save_weights(network, self.files)
        with clock.phase("predict"):
            subject = self.judge.subject(network, item, dtype)
        with clock.phase("measure"):
            measured = self.judge.measure(subject)
        deployment = None
        if item.split == "report" and item.policy.is_quantised:
            with clock.phase("deploy"):
                own, deployment = self.deployer.judged(network, subject)
            measured |= own
        return Evaluation(
            measured,
            seconds=clock.total_s,
            phases_s=clock.phases_s,
            peak_bytes=_peak_bytes(self.bench.device),
            device=self.device,
            weights=weights,
            deployment=deployment,
        )

    def network(self, item: WorkItem, dtype: torch.dtype) -> nn.Module:
        """Return the candidate's network: carved, recovered, quantised, float32, eval."""
        return self.builder.build(self._as_evaluated(item), dtype, Clock())

    def _may_teach(self, item: WorkItem) -> bool:
        """Say whether later networks of the item's rung learn from its front."""
        spec = self.bench.job.rungs[item.rung].distill
        return spec is not None and spec.teacher == "front"

    def _as_evaluated(self, item: WorkItem) -> WorkItem:
        """Return the item with the bits that its rung gives it."""
        groups = self.bench.preparation.graph.groups
        policy = policy_at(self.bench.job, groups, item.policy, item.rung)
        return replace(item, policy=policy)

    def train(self, item: TrainingItem) -> TrainingProgress:
        """Train a PruningNet for one slice; its checkpoint is one of the run's files.

        The checkpoint before the one that training goes on from is removed.
        """
        if item.progress is not None and item.progress.superseded is not None:
            remove_artifact(self._directory, item.progress.superseded)
        return train_slice(self.bench, item, self._directory)

    @property
    def _directory(self) -> Path:
        if self.files is None:
            raise RunError("checkpoints need a directory: give the evaluator `files`")
        return self.files

    def probe(self, item: WorkItem, evaluation: Evaluation) -> Evaluation:
        """Add the metrics that are measured on the network itself.

        The dense network, of which nothing is known before, is surveyed as well. On the
        report split it is the network whose weights were kept.
        """
        item, weights = self._as_evaluated(item), evaluation.weights
        # On another machine than the one that kept them they may be missing.
        if weights is None or self.files is None or not (self.files / weights).exists():
            network = self.builder.form(item.policy)
        else:
            network = self.builder.stored(item.policy, weights)
        measured = self.judge.probe(network, item)
        return replace(
            evaluation,
            measurements={**evaluation.measurements, **measured},
            surveys={} if item.dense else self.judge.survey(),
            device=self.device,
            deployment=self._timed(evaluation.deployment, measured),
        )

    def _timed(
        self, deployment: Deployment | None, measured: Mapping[str, Measurement]
    ) -> Deployment | None:
        """Add the metrics that were measured on the runtime of a deployment."""
        if deployment is None or not deployment.metrics:
            return deployment
        own = [x for x in measured if self.judge.metrics[x].runtime == deployment.target]
        return replace(deployment, metrics=(*deployment.metrics, *own))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
