"""The contract of an objective: one number, its unit, and which way is better.

An objective says with `stage` what it needs, so that the engine can compute the cheap ones
before paying, take one pass for all that need only outputs, and measure the delicate ones
where nothing else runs:

    COSTS         `subject.costs`, from tables, before anything is evaluated
    PREDICTIONS   `subject.predictions`, from the one pass over the split
    SAMPLES       `subject.samples` as well: inputs that are changed and run again
    NETWORK       `subject.network` and `subject.example`, in an exclusive process

    objective = Error()
    objective.measure(Subject(costs, predictions=Predictions(logits, labels)))
    # Measurement(value=0.0831, low=0.0757, high=0.0911)

One that is dear to measure can be predicted. What its predictor is built on is measured once
per job, beside the dense network, and stands in the log; the predictor then learns from every
trial that is measured, in the order of the log:

    survey = latency.survey(dense)                    # JSON, in the exclusive process
    predictor = latency.predictor(survey, table)      # in the controller, without torch
    predictor.covers(policy)                          # whether it can tell anything of it
    predictor.predict(policy)                         # Measurement(3.1, low=2.9, high=3.3)
    predictor.learn(policy, measured)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autoprune.graph.cost import Costs, CostTable
from autoprune.policy import Policy
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn


class Stage(StrEnum):
    """What an objective needs before it can be measured."""

    COSTS = "costs"
    PREDICTIONS = "predictions"
    SAMPLES = "samples"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Grouping:
    """Who belongs to which group: `codes` (n,) int64 are places in `names`.

    `title` is where the groups come from: `class`, an attribute, or several joined by " & ".
    """

    title: str
    names: tuple[str, ...]
    codes: Tensor


@dataclass(frozen=True, slots=True)
class Predictions:
    """Outputs over a split: `logits` (n, classes) float32, `labels` (n,) int64.

    `groupings` are those of the job's data, each of all n samples; the classes where the job
    names none.
    """

    logits: Tensor
    labels: Tensor
    groupings: tuple[Grouping, ...] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """A split's inputs, to be changed and run again.

    `batches(count)` yields the first `count` inputs and labels in batches: images (n, channels,
    height, width) in [0, 1], other inputs as the network reads them; float32, on the device.
    `forward` maps such a batch to logits (n, classes), and a gradient flows back through it.
    """

    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    forward: Callable[[Tensor], Tensor]
    is_image: bool = True


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the costs always, the rest as far as the stage provides it.

    `example` is one input batch for the network's forward pass, on its device. `dense` is the
    dense network in the same light: the same samples, the same stage. `known` is what was
    measured of the subject before, by metric: of the dense network, once its trial ended.
    """

    costs: Costs
    predictions: Predictions | None = None
    samples: Samples | None = None
    network: nn.Module | None = None
    example: Tensor | None = None
    dense: Subject | None = None
    known: Mapping[str, Measurement] = field(default_factory=dict)


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


class Predictor(ABC):
    """Predicts one metric of policies, from a survey and from what was measured since.

    What it predicts follows from the survey and the order of `learn`, so that a resumed
    search predicts the same. Of what it does not cover, it is neither asked nor taught.
    """

    def covers(self, policy: Policy) -> bool:
        """Say whether anything can be told of a canonical policy before it is measured."""
        return True

    @abstractmethod
    def predict(self, policy: Policy) -> Measurement:
        """Return the value to expect of a canonical policy, with a 95 % interval."""

    @abstractmethod
    def learn(self, policy: Policy, measured: Measurement) -> None:
        """Take in what was measured of a canonical policy."""


class Objective(ABC):
    """Measures one number. Stateless: the same subject gives the same measurement, or
    one whose interval overlaps; the network it is given is left as it was found.

    `compares` says that `subject.dense` is needed, `needs_groups` that groups other than the
    classes are.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    stage: ClassVar[Stage]
    goal: ClassVar[Literal["min", "max"]] = "min"
    compares: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = False

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure `subject`, which carries what `stage` promises."""

    def reference(self, dense: float, num_classes: int) -> float:
        """Return the worst value of interest, given the dense network's value."""
        return dense

    @property
    def runtime(self) -> str | None:
        """Name of the runtime that the network is measured on; None: where the job runs."""
        return None

    def check(self, device: str) -> None:  # noqa: B027
        """Raise `InputError` where this cannot be measured on `device`, `cpu` or `cuda`."""

    def survey(self, subject: Subject) -> Mapping[str, Any] | None:
        """Return what a predictor is built on, measured on the dense network; JSON."""
        return None

    def predictor(self, survey: Mapping[str, Any], costs: CostTable) -> Predictor | None:
        """Return a predictor; None where this objective is only measured. Without torch."""
        return None
