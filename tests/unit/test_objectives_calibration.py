"""Calibration, Brier score and churn: by hand, and against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Predictions, Subject
from autoprune.graph.cost import Costs
from autoprune.objectives._intervals import share
from autoprune.objectives.brier import Brier
from autoprune.objectives.calibration_error import CalibrationError
from autoprune.objectives.churn import Churn
from autoprune.objectives.loss import Loss
from autoprune.testing import ObjectiveContract

COSTS = Costs(1, 1, 1)


def confident(confidence: list[float], right: list[bool]) -> Subject:
    """Two classes; the first is predicted, with these probabilities."""
    probability = torch.tensor(confidence, dtype=torch.float64)
    logits = torch.stack([probability.log(), (1 - probability).log()], dim=1)
    return Subject(COSTS, Predictions(logits, torch.tensor([int(not each) for each in right])))


def predicted(classes: list[int], dense: Subject | None = None) -> Subject:
    logits = 5.0 * nn.functional.one_hot(torch.tensor(classes), 4).float()
    labels = torch.zeros(len(classes), dtype=torch.int64)
    return Subject(COSTS, Predictions(logits, labels), dense=dense)


class TestCalibrationError(ObjectiveContract):
    num_classes = 2

    def make(self) -> Objective:
        return CalibrationError()

    def better(self) -> Subject:
        return confident([0.8] * 100, [True] * 80 + [False] * 20)

    def worse(self) -> Subject:
        return confident([0.99] * 100, [True] * 60 + [False] * 40)


class TestBrier(TestCalibrationError):
    def make(self) -> Objective:
        return Brier()


class TestChurn(ObjectiveContract):
    def make(self) -> Objective:
        return Churn()

    def better(self) -> Subject:
        return predicted([0] * 95 + [1] * 5, dense=predicted([0] * 100))

    def worse(self) -> Subject:
        return predicted([0] * 60 + [1] * 40, dense=predicted([0] * 100))


def test_calibration_by_hand() -> None:
    # Of (0.6, 0.8]: accuracy 1/2, mean confidence 0.7; of (0.8, 1]: 1 and 0.9.
    given_subject = confident([0.65, 0.75, 0.9, 0.9], [True, False, True, True])
    measured = CalibrationError(bins=5).measure(given_subject)
    assert measured.value == pytest.approx((2 * 0.2 + 2 * 0.1) / 4)
    # Residuals towards their bin's sign: -0.35, 0.75, 0.1, 0.1.
    deviation = np.std([-0.35, 0.75, 0.1, 0.1], ddof=1) / 2
    assert measured.low == pytest.approx(measured.value - 1.959964 * deviation)
    assert measured.high == pytest.approx(measured.value + 1.959964 * deviation)
    assert measured.parts["confidence"].value == pytest.approx(0.8)
    assert measured.parts["brier"] == Brier().measure(given_subject)
    assert measured.parts["nll"] == Loss().measure(given_subject)


def test_over_and_under_confidence_cancel_in_one_bin_only() -> None:
    given_subject = confident([0.6, 0.6, 0.9, 0.9], [True, True, True, False])
    assert CalibrationError(bins=1).measure(given_subject).value == pytest.approx(0.0)
    assert CalibrationError(bins=5).measure(given_subject).value == pytest.approx(0.4)


def test_a_bin_holds_its_upper_edge() -> None:
    # 0.5 lies in (0, 0.5], apart from 0.6.
    apart = confident([0.5, 0.6], [False, True])
    assert CalibrationError(bins=2).measure(apart).value == pytest.approx((0.5 + 0.4) / 2)


def test_brier_by_hand() -> None:
    # One class of three has 0.5, the others 0.25; the label is it, then another.
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2).log()
    measured = Brier().measure(Subject(COSTS, Predictions(logits, torch.tensor([0, 1]))))
    scores = 0.25 + 2 * 0.0625, 0.25 + 0.5625 + 0.0625
    assert measured.value == pytest.approx(sum(scores) / 2)
    assert measured.high == pytest.approx(measured.value + 1.959964 * (scores[1] - scores[0]) / 2)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_reference_of_brier_is_the_score_of_knowing_nothing(classes: int) -> None:
    ignorant = Subject(COSTS, Predictions(torch.zeros(5, classes), torch.zeros(5).long()))
    assert Brier().measure(ignorant).value == pytest.approx(Brier().reference(0.1, classes))


def test_one_sample_has_no_interval() -> None:
    one = confident([0.75], [True])
    assert Brier().measure(one).low is None
    measured = CalibrationError().measure(one)
    assert measured.value == pytest.approx(0.25)
    assert measured.low is None


def test_bins_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1, given 0"):
        CalibrationError(bins=0)


def test_churn_by_hand() -> None:
    # Wrong before and wrong after in another way is churn as well.
    dense = predicted([0] * 80 + [1] * 20)
    measured = Churn().measure(predicted([0] * 80 + [2] * 10 + [1] * 10, dense=dense))
    assert measured.value == pytest.approx(0.1)
    assert measured.low == pytest.approx(0.0552, abs=1e-4)  # Wilson, textbook value
    assert Churn().measure(predicted([0] * 80 + [1] * 20, dense=dense)).value == 0.0
    assert Churn().reference(0.0, 10) == pytest.approx(0.9)


def outputs() -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    def drawn(size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        count, classes, seed = size
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(count, classes, generator=generator)
        return logits, torch.randint(classes, (count,), generator=generator)

    return st.tuples(st.integers(2, 60), st.integers(2, 6), st.integers(0, 10**6)).map(drawn)


@settings(max_examples=80, deadline=None)
@given(outputs(), st.integers(1, 20))
def test_calibration_and_brier_equal_their_slow_twins(
    drawn: tuple[Tensor, Tensor], bins: int
) -> None:
    logits, labels = drawn
    given_subject = Subject(COSTS, Predictions(logits, labels))
    error, brier, count = 0.0, 0.0, len(labels)
    kept: list[list[float]] = [[] for _ in range(bins)]
    for row, label in zip(logits.softmax(dim=1).double().tolist(), labels.tolist(), strict=True):
        brier += sum((value - (place == label)) ** 2 for place, value in enumerate(row)) / count
        place = next(m for m in range(bins) if max(row) <= (m + 1) / bins or m == bins - 1)
        kept[place].append((row.index(max(row)) == label) - max(row))
    error = sum(abs(sum(residuals)) for residuals in kept) / count
    assert CalibrationError(bins=bins).measure(given_subject).value == pytest.approx(error)
    assert Brier().measure(given_subject).value == pytest.approx(brier, abs=1e-6)


@example((0, 69))  # where rounding would put the bounds beyond the value
@example((4, 4))
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_in_its_interval_and_that_in_the_unit_interval(
    counts: tuple[int, int],
) -> None:
    measured = share(*counts)
    assert measured.low is not None
    assert measured.high is not None
    assert 0 <= measured.low <= measured.value <= measured.high <= 1
    # The bounds of Wilson's interval p are where |share - p| is z standard deviations of p.
    for bound in {measured.low, measured.high} - {0.0, 1.0, measured.value}:
        deviation = math.sqrt(bound * (1 - bound) / counts[1])
        assert abs(measured.value - bound) == pytest.approx(1.959964 * deviation, rel=1e-6)
