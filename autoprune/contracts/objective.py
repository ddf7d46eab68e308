"""The contract of an objective: one number, its unit, and which way is better.

An objective says with `stage` what it needs, so that the engine can compute the cheap
ones before paying and measure the delicate ones where nothing else runs:

    COSTS         `subject.costs`, from tables, before anything is evaluated
    PREDICTIONS   `subject.predictions`, from the one pass over the split
    NETWORK       `subject.network` and `subject.example`, in an exclusive process

    objective = Error()
    objective.measure(Subject(costs, predictions=Predictions(logits, labels)))
    # Measurement(value=0.0831, low=0.0757, high=0.0911)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal

from autoprune.graph.cost import Costs
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn


class Stage(StrEnum):
    """What an objective needs before it can be measured."""

    COSTS = "costs"
    PREDICTIONS = "predictions"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs over a split: `logits` (n, classes) float32, `labels` (n,) int64."""

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the costs always, the rest as far as the stage provides it.

    `example` is one input batch for the network's forward pass, on its device.
    """

    costs: Costs
    predictions: Predictions | None = None
    network: nn.Module | None = None
    example: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective as the front and the searchers see it.

    `reference` is the worst value of interest, in the objective's unit: the corner of
    the box whose filled share is the hypervolume. `None` until the dense network has
    been measured.
    """

    name: str
    unit: str
    goal: Literal["min", "max"]
    reference: float | None = None

    def loss(self, value: float) -> float:
        """Return `value` so that smaller is better."""
        return value if self.goal == "min" else -value


class Objective(ABC):
    """Measures one number. Stateless: the same subject gives the same measurement, or
    one whose interval overlaps; the network it is given is left as it was found.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    stage: ClassVar[Stage]
    goal: ClassVar[Literal["min", "max"]] = "min"

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure `subject`, which carries what `stage` promises."""

    def reference(self, dense: float, num_classes: int) -> float:
        """Return the worst value of interest, given the dense network's value."""
        return dense
