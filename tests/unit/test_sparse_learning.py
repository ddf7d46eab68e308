"""Regularisers, projections and thresholds that make weights small before they are cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoprune.policy import LayerDecision
from autoprune.surgery.sparsify import mask_of
from tests.one_layer import KERNEL, WEIGHTS, History, bare, counts, hooks, layer, rows, training_of


def test_the_hoyer_square_and_its_gradient() -> None:
    network = layer(torch.tensor([[3.0, -4.0]]))
    training = training_of(network, LayerDecision(keep_ratio=0.5))
    masking = hooks(bare("deephoyer", strength=0.1, until=0.5), training)
    penalty = masking.penalty(0)
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(0.1 * 49 / 25)
    torch.autograd.backward(penalty)
    # 2 sign(w) Σ|w| / (Σw²)² (Σw² - |w| Σ|w|).
    expected = [0.1 * 2 * 7 / 625 * (25 - 21), -0.1 * 2 * 7 / 625 * (25 - 28)]
    assert network.get_parameter(KERNEL).grad.flatten().tolist() == pytest.approx(expected)  # type: ignore[union-attr]
    assert masking.penalty(5) is None  # after the cut


def test_the_penalty_moves_weights() -> None:
    seen: list[Tensor] = []
    network = layer(torch.tensor([[3.0, -4.0]]))
    training = training_of(
        network, LayerDecision(keep_ratio=0.5), 0.0, seen, steps=4, learning_rate=1.0
    )
    bare("deephoyer", strength=0.1, until=0.5).recover(training)
    slopes = torch.tensor([[0.1 * 14 / 625 * 4, 0.1 * 14 / 625 * 3]])
    torch.testing.assert_close(seen[1], seen[0] - 1.9 * slopes)
    assert counts(seen) == [2, 2, 1, 1]


def test_admm_projects_and_sums_what_is_missing() -> None:
    seen: list[Tensor] = []
    history, decision = History(), LayerDecision(keep_ratio=0.25)
    training = training_of(
        layer(WEIGHTS), decision, rows(1, 3, 4), seen, learning_rate=0.05, checkpoint=history
    )
    bare("admm", rho=0.5, every=2, until=0.8).recover(training)
    copies, duals = (history.all(f"masking/{KERNEL}/{each}") for each in ("copy", "dual"))
    expected = WEIGHTS * mask_of(WEIGHTS.abs(), decision)
    dual = torch.zeros(3, 4)
    for step in range(8):
        weights = history.all(f"network/{KERNEL}")[step]
        if step in (1, 3, 5):
            total = weights + dual
            expected = total * mask_of(total.abs(), decision)
            dual = total - expected
        torch.testing.assert_close(copies[step], expected)
        torch.testing.assert_close(duals[step], dual)
    assert counts(seen) == [12] * 8 + [3] * 2


def test_admm_draws_weights_to_their_copy() -> None:
    network = layer(WEIGHTS)
    masking = hooks(bare("admm", rho=0.5), training_of(network, LayerDecision(keep_ratio=0.25)))
    penalty = masking.penalty(0)
    assert penalty is not None
    left = WEIGHTS * (WEIGHTS.abs() < 0.7)
    assert float(penalty.detach()) == pytest.approx(0.25 * float(left.square().sum()))
    torch.autograd.backward(penalty)
    torch.testing.assert_close(network.get_parameter(KERNEL).grad, 0.5 * left)
    assert masking.penalty(5) is None


def test_soft_thresholds_and_their_gradients() -> None:
    network, gradient = layer(WEIGHTS), rows(1, 3, 4)
    masking = hooks(
        bare("thresholds", start=-1.0, decay=0.5, until=0.8),
        training_of(network, LayerDecision(keep_ratio=0.25)),
    )
    kernel, learned = network.get_parameter(KERNEL), torch.tensor(-1.0, requires_grad=True)
    weights = WEIGHTS.clone().requires_grad_()
    shown = weights.sign() * torch.relu(weights.abs() - 0.9 * torch.sigmoid(learned))
    torch.autograd.backward((shown * gradient).sum())
    masking.before(0)
    torch.testing.assert_close(kernel.detach(), shown.detach())
    kernel.grad = gradient.clone()
    masking.see(0)
    torch.testing.assert_close(kernel.grad, weights.grad)
    assert torch.equal(kernel.detach(), WEIGHTS)
    # By the rate 0.1: down the gradient, and up by the half of 1, as more is there than wanted.
    found = masking.tensors()[f"{KERNEL}/threshold"]
    assert learned.grad is not None
    assert float(found) == pytest.approx(-1.0 - 0.1 * (float(learned.grad) - 0.5))


def test_thresholds_rest_where_no_more_is_there_than_wanted() -> None:
    network, history = layer(WEIGHTS), History()
    training = training_of(
        network, LayerDecision(keep_ratio=0.75), 0.0, learning_rate=0.1, checkpoint=history
    )
    bare("thresholds", start=-4.0, decay=1.0, until=0.9).recover(training)
    found = [float(each) for each in history.all(f"masking/{KERNEL}/threshold")]
    # Up to where three of twelve are below: above 0.15, at s = -1.61.
    assert found == pytest.approx([-3.6, -3.2, -2.8, -2.4, -2.0, -1.6, -1.6, -1.6, -1.6, -1.6])
    threshold = 0.9 / (1 + math.exp(1.6))
    expected = WEIGHTS.sign() * (WEIGHTS.abs() - threshold).relu()
    torch.testing.assert_close(network.get_parameter(KERNEL).detach(), expected)
