"""Measuring what a job asks for: one pass over a split yields every metric of outputs, a
second one only where a metric changes the inputs, and the rest is measured alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.contracts.executor import WorkItem
from autoprune.contracts.objective import Objective, Predictions, Samples, Stage, Subject
from autoprune.data.dataset import Part
from autoprune.errors import NonFiniteError
from autoprune.evaluation.inference import BATCH, cast, predict
from autoprune.evaluation.workbench import Workbench
from autoprune.graph.cost import Costs
from autoprune.policy import Policy
from autoprune.surgery.folding import fold
from autoprune.trial import Measurement


class Judge:
    """Measures the metrics of a job, by name, on networks of its workbench."""

    def __init__(self, bench: Workbench, metrics: Mapping[str, Objective]) -> None:
        self.bench = bench
        self.metrics = metrics
        self._batches: dict[tuple[str, int, torch.dtype], list[Tensor]] = {}
        self._dense: dict[tuple[str, int, torch.dtype], Subject] = {}

    @property
    def needs_probe(self) -> bool:
        """Say whether a metric needs the carved network in an exclusive process."""
        return bool(self._delicate)

    def subject(self, network: nn.Module, item: WorkItem, dtype: torch.dtype) -> Subject:
        """Return `network` with its outputs over the item's split, judged in `dtype`.

        Raises `NonFiniteError` where an output is not a number.
        """
        part, rung = self.bench.part(item.split), self.bench.job.rungs[item.rung]
        wanted = len(part) if item.split == "report" else rung.images or len(part)
        count = min(wanted, len(part))
        subject = self._subject(network, item.policy, item.split, count, dtype)
        assert subject.predictions is not None
        if not torch.isfinite(subject.predictions.logits).all():
            raise NonFiniteError(f"the network of trial {item.trial} gives non-finite outputs")
        if not self._compares:
            return subject
        key = (item.split, count, dtype)
        if key not in self._dense:
            self._dense[key] = self._subject(self.bench.model, Policy(), *key)
        return replace(subject, dense=self._dense[key])

    def of_predictions(self, subject: Subject) -> dict[str, Measurement]:
        """Return what outputs alone tell of `subject`; raises `NonFiniteError`."""
        return self._measured(subject, Stage.PREDICTIONS)

    def measure(self, subject: Subject) -> dict[str, Measurement]:
        """Return what costs and outputs tell of `subject`; raises `NonFiniteError`."""
        return self._measured(subject, Stage.COSTS, Stage.PREDICTIONS, Stage.SAMPLES)

    def _measured(self, subject: Subject, *stages: Stage) -> dict[str, Measurement]:
        return {
            name: _finite(name, metric.measure(subject))
            for name, metric in self.metrics.items()
            if metric.stage in stages
        }

    def probe(self, network: nn.Module, item: WorkItem) -> dict[str, Measurement]:
        """Return what is measured on the carved `network` of an item, by metric."""
        dense = replace(self._bare, known=item.dense)
        costs = self._costs(item.policy)
        subject = replace(self._bare, costs=costs, network=network, dense=dense)
        return {name: _finite(name, each.measure(subject)) for name, each in self._delicate.items()}

    def survey(self) -> dict[str, Any]:
        """Return what predictors of the delicate metrics are built on, by metric."""
        surveys = {name: each.survey(self._bare) for name, each in self._delicate.items()}
        return {name: each for name, each in surveys.items() if each is not None}

    @property
    def _compares(self) -> bool:
        """Say whether a metric of outputs needs those of the dense network as well."""
        return any(
            each.compares and each.stage is not Stage.NETWORK for each in self.metrics.values()
        )

    @property
    def _delicate(self) -> dict[str, Objective]:
        return {name: each for name, each in self.metrics.items() if each.stage is Stage.NETWORK}

    @property
    def _bare(self) -> Subject:
        """The dense network, as metrics that are measured alone see it."""
        example = self.bench.example
        return Subject(self._costs(Policy()), network=self.bench.model, example=example)

    def inputs(self, part: str, count: int, dtype: torch.dtype) -> list[Tensor]:
        """Return the first `count` inputs of a part in batches, prepared once and kept."""
        key = (part, count, dtype)
        if key not in self._batches:
            source = self.bench.part(part)
            raw = _in_batches(source, min(count, len(source)), self.bench.device)
            normalise = self.bench.dataset.normalise
            self._batches[key] = [normalise(inputs).to(dtype) for inputs, _ in raw]
        return self._batches[key]

    def _subject(
        self, network: nn.Module, policy: Policy, split: str, count: int, dtype: torch.dtype
    ) -> Subject:
        part, device = self.bench.part(split), self.bench.device
        folded = cast(fold(network, self.bench.preparation.graph.foldable), dtype)
        logits = predict(folded, self.inputs(split, count, dtype))
        groupings = tuple(
            replace(each, codes=each.codes[:count].to(device)) for each in part.groupings
        )
        predictions = Predictions(logits, part.labels[:count].to(device), groupings)
        samples = self._samples(folded, part, count, dtype)
        return Subject(self._costs(policy), predictions, samples)

    def _samples(self, network: nn.Module, part: Part, most: int, dtype: torch.dtype) -> Samples:
        dataset = self.bench.dataset

        def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, labels in _in_batches(part, min(count, most), self.bench.device):
                yield dataset.pixels(inputs), labels

        def forward(inputs: Tensor) -> Tensor:
            logits: Tensor = network(dataset.standardise(inputs).to(dtype))
            return logits.float()

        return Samples(batches, forward, dataset.has_images)

    def _costs(self, policy: Policy) -> Costs:
        return self.bench.preparation.graph.costs.costs(policy)


def _in_batches(part: Part, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first `count` inputs and labels of a part, as they are, on the device."""
    for start in range(0, count, BATCH):
        rows = slice(start, min(start + BATCH, count))
        yield part.inputs[rows].to(device), part.labels[rows].to(device)


def _finite(name: str, measurement: Measurement) -> Measurement:
    if not measurement.is_finite:
        raise NonFiniteError(f"{name} is {measurement.value}")
    return measurement
