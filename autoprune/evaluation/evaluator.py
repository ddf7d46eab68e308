"""The evaluator: one warm process that prunes, repairs, recovers and measures candidates.

Everything that candidates share is built once: the model on its device, the plan with its
scores, second moments, the images in their final layout. A candidate is then carve →
reconstruct or generate → recover → recalibrate → fold → predict → measure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.artifacts import remove_artifact
from autoprune.contracts.executor import Evaluator, WorkItem
from autoprune.contracts.training import TrainingItem, TrainingProgress
from autoprune.errors import RunError
from autoprune.evaluation.generation import load_net, train_slice
from autoprune.evaluation.judge import Judge
from autoprune.evaluation.material import Material
from autoprune.evaluation.preparation import Preparation
from autoprune.evaluation.pruning_net import PruningNet
from autoprune.evaluation.recovery import finetune, training_steps
from autoprune.evaluation.repair import recalibrate
from autoprune.evaluation.weights import save_weights
from autoprune.evaluation.workbench import Workbench
from autoprune.metrics import metrics_of
from autoprune.policy import Policy
from autoprune.surgery.reconstruct import reconstruct
from autoprune.trial import Evaluation


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
        self._net: tuple[str, PruningNet] | None = None

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
        kept, named by their hash. Raises `NonFiniteError`, `PolicyError`.
        """
        clock = _Clock()
        dtype = torch.float32 if item.split == "report" else self.bench.preparation.dtype
        network = self.network(item, dtype, clock)
        weights = None
        if item.split == "report" and self.files is not None:
            weights = save_weights(network, self.files)
        with clock.phase("predict"):
            subject = self.judge.subject(network, item, dtype)
        with clock.phase("measure"):
            measured = self.judge.measure(subject)
        return Evaluation(
            measured,
            seconds=clock.total_s,
            phases_s=clock.phases_s,
            peak_bytes=_peak_bytes(self.bench.device),
            device=self.device,
            weights=weights,
        )

    def network(self, item: WorkItem, dtype: torch.dtype, clock: _Clock | None = None) -> nn.Module:
        """Return the candidate's network: carved, recovered and repaired, float32, eval."""
        clock = clock or _Clock()
        rung = self.bench.job.rungs[item.rung]
        with clock.phase("carve"):
            network = self.bench.plan.carve(item.policy)
        net = item.policy.recipe.pruning_net
        if net is not None:
            with clock.phase("generate"):
                self._generate(network, item.policy, net)
        elif rung.repair in ("ridge", "both") and not item.policy.is_dense:
            with clock.phase("reconstruct"):
                moments = self.bench.moments(rung.ridge_images)
                reconstruct(network, self.bench.plan, item.policy, moments)
        trained = training_steps(rung, len(self.bench.dataset.train)) > 0
        if trained:
            with clock.phase("recover"):
                teacher = self.bench.model if rung.distill else None
                finetune(
                    network,
                    self.bench.dataset,
                    rung,
                    seed=item.seed,
                    device=self.bench.device,
                    teacher=teacher,
                )
        # The untouched network keeps the statistics it was trained with; generated weights
        # have none before they are recalibrated.
        is_repaired = rung.repair in ("bn", "both") and (trained or not item.policy.is_dense)
        if is_repaired or net is not None:
            with clock.phase("repair"):
                images = self.judge.inputs("train", rung.repair_images, dtype)
                recalibrate(network, images, dtype)
        return network.eval()

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

    @torch.no_grad()
    def _generate(self, network: nn.Module, policy: Policy, name: str) -> None:
        """Replace the weights of a carved network by those that the net `name` generates."""
        if self._net is None or self._net[0] != name:
            self._net = name, load_net(self.bench.plan, self._directory, name)
        for parameter, weight in self._net[1].weights(policy).items():
            network.get_parameter(parameter).copy_(weight)

    def probe(self, item: WorkItem, evaluation: Evaluation) -> Evaluation:
        """Add the metrics that are measured on the carved network itself.

        The dense network, of which nothing is known before, is surveyed as well.
        """
        network = self.bench.plan.carve(item.policy).eval()
        measured = {**evaluation.measurements, **self.judge.probe(network, item)}
        surveys = {} if item.dense else self.judge.survey()
        return replace(evaluation, measurements=measured, surveys=surveys, device=self.device)


class _Clock:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self.phases_s: dict[str, float] = {}
        self._start = time.perf_counter()

    @property
    def total_s(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.phases_s[name] = self.phases_s.get(name, 0.0) + time.perf_counter() - start


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
