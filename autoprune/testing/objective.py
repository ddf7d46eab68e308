"""Suite for objectives: inherit, and give one clearly better and one clearly worse subject.

class TestMine(ObjectiveContract):
    def make(self):
        return Mine()

    def better(self):
        return Subject(costs, predictions=mostly_right)

    def worse(self):
        return Subject(costs, predictions=mostly_wrong)
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.contracts.objective import Goal, Objective, Stage, Subject
from autoprune.trial import Measurement

# Timings of a busy machine may miss each other once; not five times in a row.
_REPEATS = 5


class ObjectiveContract:
    """What every objective promises. `num_classes` are those of the subjects."""

    num_classes: ClassVar[int] = 4

    def make(self) -> Objective:
        """Return the objective under test."""
        raise NotImplementedError

    def better(self) -> Subject:
        """Return a subject that the objective must prefer to `worse`."""
        raise NotImplementedError

    def worse(self) -> Subject:
        """Return a clearly worse subject."""
        raise NotImplementedError

    def test_it_says_what_it_is(self) -> None:
        objective = self.make()
        assert objective.name.isidentifier()
        assert objective.unit
        assert objective.goal in ("min", "max")
        assert isinstance(objective.stage, Stage)

    def test_the_direction_is_right(self) -> None:
        objective = self.make()
        goal = Goal(objective.name, objective.unit, objective.goal)
        better = goal.loss(objective.measure(self.better()).value)
        worse = goal.loss(objective.measure(self.worse()).value)
        assert better < worse

    def test_values_are_finite_and_inside_their_interval(self) -> None:
        for subject in (self.better(), self.worse()):
            measured = self.make().measure(subject)
            assert math.isfinite(measured.value)
            assert (measured.low is None) == (measured.high is None)
            if measured.low is not None and measured.high is not None:
                assert measured.low <= measured.value <= measured.high

    def test_measuring_again_agrees(self) -> None:
        objective, subject = self.make(), self.better()
        pairs = ((objective.measure(subject), objective.measure(subject)) for _ in range(_REPEATS))
        assert any(_agree(first, second) for first, second in pairs)

    def test_the_subject_is_left_as_it_was(self) -> None:
        for subject in (self.better(), self.worse()):
            tensors, modes = _state(subject)
            before = [(each, each.clone(), each.requires_grad) for each in tensors]
            self.make().measure(subject)
            after, modes_after = _state(subject)
            assert modes_after == modes
            assert len(after) == len(before)
            for now, (then, value, needs_gradient) in zip(after, before, strict=True):
                assert now is then
                assert torch.equal(now, value)
                assert now.requires_grad == needs_gradient

    def test_the_reference_is_no_better_than_a_good_network(self) -> None:
        objective = self.make()
        goal = Goal(objective.name, objective.unit, objective.goal)
        value = objective.measure(self.better()).value
        reference = objective.reference(value, num_classes=self.num_classes)
        assert goal.loss(reference) >= goal.loss(value)


def _agree(first: Measurement, second: Measurement) -> bool:
    """Say whether intervals overlap, or values are equal where there is no interval."""
    if first.low is None or second.low is None or first.high is None or second.high is None:
        return first == second
    return first.low <= second.high and second.low <= first.high


def _state(subject: Subject) -> tuple[list[Tensor], list[bool]]:
    """Return every tensor of a subject and the mode of every module."""
    tensors: list[Tensor] = []
    modes: list[bool] = []
    if subject.predictions is not None:
        tensors += [subject.predictions.logits, subject.predictions.labels]
    if subject.network is not None:
        tensors += [*subject.network.parameters(), *subject.network.buffers()]
        modes = [module.training for module in subject.network.modules()]
    if subject.example is not None:
        tensors.append(subject.example)
    return tensors, modes
