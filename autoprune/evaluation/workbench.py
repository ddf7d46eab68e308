"""What candidates of a job share in one process: model, data, plan, device."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data.dataset import Dataset, Part
from autoprune.errors import ModelError
from autoprune.evaluation.inference import BATCH, best_device, channels_last
from autoprune.evaluation.keyed_file import digest
from autoprune.evaluation.material import (
    Material,
    dataset_of,
    load_dataset,
    load_model,
    model_of,
)
from autoprune.evaluation.preparation import Preparation
from autoprune.evaluation.weights import load_weights
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.rebuild import shrunk
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.passes import Samples
from autoprune.surgery.plan import Plan, Scores
from autoprune.surgery.reconstruct import Moments


class Workbench:
    """The job's dense model and data, resident on the device, and the plan to carve it.

    Data and weights come from `material`, where it is given, else from where the job says.
    `saliencies` are what single weights are worth, by criterion, as far as it was found out.
    Raises `ModelError` if the weights are not those that the job was prepared with.
    """

    def __init__(
        self, job: Mapping[str, Any], preparation: Preparation, material: Material | None = None
    ) -> None:
        self.job = Job.model_validate(job)
        self.preparation = preparation
        self.device = best_device(self.job.resources.device)
        if material is None:
            self.dataset = load_dataset(self.job)
            model = load_model(self.job, self.dataset)
        else:
            self.dataset = dataset_of(material)
            model = model_of(material, self.job, self.dataset)
        if fingerprint(model) != preparation.fingerprint:
            raise ModelError(
                f"the weights of {self.job.model.title} changed since this job was created; "
                "start a new run, or bring the old checkpoint back"
            )
        self.model = to_layout(model, self.device)
        self.saliencies: dict[str, Mapping[str, Tensor]] = {}
        self._moments: dict[tuple[int, bool], Moments] = {}

    @cached_property
    def plan(self) -> Plan:
        """The plan, with the scores that were gathered once for the job."""
        return Plan(self.model, self.preparation.graph.groups, self.preparation.scores)

    def rank_by(self, scores: Mapping[str, Scores]) -> None:
        """Carve by other scores from now on; everything else that was gathered stays."""
        self.preparation = replace(self.preparation, scores=scores)
        self.plan = Plan(self.model, self.preparation.graph.groups, scores)

    def weigh_by(self, saliencies: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let single weights leave by other saliencies from now on."""
        self.saliencies = {
            criterion: {name: each.to(self.device) for name, each in table.items()}
            for criterion, table in saliencies.items()
        }

    @cached_property
    def evidence(self) -> Evidence:
        """What criteria may know of the dense network."""
        samples = scoring_samples(self.job, self.dataset, self.device)
        return Evidence(self.model, self.preparation.graph.groups, samples)

    def moments(self, images: int, *, every: bool = False) -> Moments:
        """Return the second moments of the dense network on training images, gathered once.

        Those of layers that read prunable groups; with `every`, of all that can be solved.
        """
        if (images, every) not in self._moments:
            inputs = self.dataset.train.inputs[:images].split(BATCH)
            batches = (self.dataset.normalise(each.to(self.device)) for each in inputs)
            groups = self.preparation.graph.groups
            found = Moments.gather(self.model, groups, batches, every=every)
            self._moments[images, every] = found
        return self._moments[images, every]

    @cached_property
    def example(self) -> Tensor:
        """Two normalised training inputs on the device, shape (2, ...)."""
        return self.dataset.normalise(self.dataset.train.inputs[:2].to(self.device))

    @property
    def device_name(self) -> str:
        """Name of the device, for the record."""
        if self.device.type == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        return processor_name()

    def part(self, name: str) -> Part:
        """Return the part called `train`, `search` or `report`."""
        part: Part = getattr(self.dataset, name)
        return part


def scoring_samples(job: Job, dataset: Dataset, device: torch.device) -> Samples:
    """Return the training images that criteria look at."""
    images, part = job.scoring.images, dataset.train
    inputs = dataset.normalise(part.inputs[:images].to(device))
    return Samples(inputs, part.labels[:images].to(device))


def kept_network(bench: Workbench, files: Path, policy: Policy, weights: str) -> nn.Module:
    """Return a network that was built before, with the weights that are kept in a file.

    Raises `RunError` if the file is gone or altered.
    """
    graph = bench.preparation.graph
    kept = graph.groups.placed(bench.plan.kept_units(policy))
    network = shrunk(bench.model, graph.groups, policy, graph.foldable, kept)
    load_weights(network, files, weights)
    return network.eval()


def processor_name() -> str:
    """Return the name of this machine's processor, as its system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"cpu ({platform.machine()})"


def to_layout(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to its device in channels-last layout, without gradients."""
    return channels_last(model.to(device)).requires_grad_(False).eval()


def fingerprint(model: nn.Module) -> str:
    """Return a hash of every name, shape and value of the model's state."""
    return digest(model.state_dict())
