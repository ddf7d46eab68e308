"""Objectives: the contract, and values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autoprune.contracts.objective import Objective, Predictions, Subject
from autoprune.graph.cost import Costs
from autoprune.objectives.error import Error
from autoprune.objectives.loss import Loss
from autoprune.objectives.macs import Macs
from autoprune.objectives.params import Params
from autoprune.objectives.size_bytes import SizeBytes
from autoprune.testing import ObjectiveContract

SMALL, LARGE = Costs(100, 10, 40), Costs(1000, 100, 400)


def predictions(right: int, wrong: int) -> Subject:
    """Confident predictions of 4 classes, `right` of them true."""
    labels = torch.arange(right + wrong) % 4
    said = torch.cat([labels[:right], (labels[right:] + 1) % 4])
    logits = 5.0 * nn.functional.one_hot(said, 4).float()
    return Subject(SMALL, Predictions(logits, labels))


class _PredictionContract(ObjectiveContract):
    def better(self) -> Subject:
        return predictions(90, 10)

    def worse(self) -> Subject:
        return predictions(40, 60)


class TestError(_PredictionContract):
    def make(self) -> Objective:
        return Error()


class TestLoss(_PredictionContract):
    def make(self) -> Objective:
        return Loss()


class _CostContract(ObjectiveContract):
    def better(self) -> Subject:
        return Subject(SMALL)

    def worse(self) -> Subject:
        return Subject(LARGE)


class TestMacs(_CostContract):
    def make(self) -> Objective:
        return Macs()


class TestParams(_CostContract):
    def make(self) -> Objective:
        return Params()


class TestSizeBytes(_CostContract):
    def make(self) -> Objective:
        return SizeBytes()


del _PredictionContract, _CostContract  # suites of their own they are not


def test_error_and_its_wilson_interval_by_hand() -> None:
    measured = Error().measure(predictions(90, 10))
    assert measured.value == pytest.approx(0.1)
    # Wilson 95 % for 10 of 100 is [0.0552, 0.1744] (textbook value).
    assert measured.low == pytest.approx(0.0552, abs=1e-4)
    assert measured.high == pytest.approx(0.1744, abs=1e-4)


def test_a_perfect_network_keeps_an_honest_upper_bound() -> None:
    measured = Error().measure(predictions(100, 0))
    assert measured.value == 0.0
    assert measured.low == 0.0
    assert measured.high == pytest.approx(0.037, abs=1e-3)


def test_loss_by_hand() -> None:
    subject = Subject(SMALL, Predictions(torch.zeros(8, 4), torch.arange(8) % 4))
    assert Loss().measure(subject).value == pytest.approx(math.log(4))


def test_the_interval_of_the_loss_by_hand() -> None:
    # One sample is right with probability 3/4, one with 1/4: losses ln(4/3) and ln(4).
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    measured = Loss().measure(Subject(SMALL, Predictions(logits, torch.tensor([0, 0]))))
    losses = math.log(4 / 3), math.log(4)
    assert measured.value == pytest.approx(sum(losses) / 2)
    # Of two values, the standard error is half their distance.
    half = 1.959964 * (losses[1] - losses[0]) / 2
    assert measured.low == pytest.approx(measured.value - half, abs=1e-6)
    assert measured.high == pytest.approx(measured.value + half, abs=1e-6)


def test_the_loss_of_one_sample_has_no_interval() -> None:
    measured = Loss().measure(Subject(SMALL, Predictions(torch.zeros(1, 4), torch.tensor([2]))))
    assert measured.low is None
    assert measured.high is None


def test_costs_come_from_the_table() -> None:
    subject = Subject(Costs(macs=7, params=11, size_bytes=13))
    values = [each.measure(subject).value for each in (Macs(), Params(), SizeBytes())]
    assert values == [7.0, 11.0, 13.0]


def test_references() -> None:
    assert Error().reference(0.08, 10) == pytest.approx(0.9)
    assert Loss().reference(0.3, 10) == pytest.approx(math.log(10))
    assert Macs().reference(123.0, 10) == 123.0
