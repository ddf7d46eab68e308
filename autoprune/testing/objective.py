"""Suite for objectives: inherit, and give one clearly better and one clearly worse subject."""

from __future__ import annotations

import math

import torch

from autoprune.contracts.objective import Goal, Objective, Subject


class ObjectiveContract:
    """What every objective promises."""

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
        first, second = objective.measure(subject), objective.measure(subject)
        if first.low is None or second.low is None or first.high is None or second.high is None:
            assert first.value == second.value
        else:
            assert first.low <= 2 * second.high
            assert second.low <= 2 * first.high

    def test_the_subject_is_left_as_it_was(self) -> None:
        subject = self.better()
        if subject.network is None:
            return
        state = {name: each.clone() for name, each in subject.network.state_dict().items()}
        modes = [module.training for module in subject.network.modules()]
        self.make().measure(subject)
        assert modes == [module.training for module in subject.network.modules()]
        for name, each in subject.network.state_dict().items():
            assert torch.equal(each, state[name])

    def test_the_reference_is_no_better_than_a_good_network(self) -> None:
        objective = self.make()
        goal = Goal(objective.name, objective.unit, objective.goal)
        value = objective.measure(self.better()).value
        assert goal.loss(objective.reference(value, num_classes=4)) >= goal.loss(value)
