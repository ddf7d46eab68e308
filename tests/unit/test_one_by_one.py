"""Weights that leave a row one by one, held against a system solved anew at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from autoprune.criteria import _one_by_one
from autoprune.criteria._one_by_one import losses_in_order
from tests.removal import paid_one_by_one

ENOUGH = 1e12


def system(inputs: int, seed: int = 0) -> Tensor:
    """Return moments of inputs that follow from few numbers, and a ridge."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 6, generator=generator) @ torch.randn(6, inputs, generator=generator)
    x = (x + 0.5 * torch.randn(x.shape, generator=generator)).double()
    return x.T @ x / len(x) + 0.05 * torch.eye(inputs).double()


def weights_of(rows: int, inputs: int) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(7)).double()


@pytest.mark.parametrize("at_once", [2**24, 700, 1])
def test_it_agrees_with_its_slow_twin(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_one_by_one, "_AT_ONCE", at_once)
    inverse, weights = torch.linalg.inv(system(23)), weights_of(5, 23)
    expected = paid_one_by_one(weights.numpy(), inverse.numpy())
    before = weights.clone(), inverse.clone()
    found = losses_in_order(weights, inverse, ENOUGH)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    assert torch.equal(weights, before[0])
    assert torch.equal(inverse, before[1])


def test_blocks_are_emptied_by_themselves() -> None:
    inverse, weights = torch.linalg.inv(system(40)), weights_of(3, 40)
    found = losses_in_order(weights, inverse, 3 * 40 * 20**2)
    for first in (0, 20):
        some = slice(first, first + 20)
        expected = losses_in_order(weights[:, some], inverse[some, some], ENOUGH)
        assert torch.equal(found[:, some], expected)
    assert not torch.allclose(found, losses_in_order(weights, inverse, ENOUGH))
    # However few operations may be taken, blocks have sixteen inputs.
    assert torch.equal(
        losses_in_order(weights, inverse, 1)[:, :16],
        losses_in_order(weights[:, :16], inverse[:16, :16], ENOUGH),
    )


def lost(kept: Tensor, weights: Tensor, moments: Tensor) -> float:
    """Return the error of rows that keep some weights, with the best values for them."""
    total = 0.0
    for row, own in zip(weights, kept, strict=True):
        made = torch.zeros_like(row)
        made[own] = torch.linalg.solve(moments[own][:, own], moments[own] @ row)
        total += float((made - row) @ moments @ (made - row))
    return total


def test_what_stays_loses_less_than_by_magnitude_or_all_at_once() -> None:
    moments, weights = system(48), weights_of(6, 48)
    inverse = torch.linalg.inv(moments)
    scores = {
        "one by one": losses_in_order(weights, inverse, ENOUGH),
        "at once": weights.square() / inverse.diagonal(),
        "magnitude": weights.abs(),
    }
    for kept in (0.1, 0.3, 0.5):
        errors = {
            name: lost(each >= each.flatten().quantile(1 - kept), weights, moments)
            for name, each in scores.items()
        }
        assert errors["one by one"] < 0.9 * min(errors["at once"], errors["magnitude"])


def test_inputs_that_follow_from_others_give_numbers() -> None:
    moments = torch.ones(4, 4).double() + 1e-13 * torch.eye(4).double()
    found = losses_in_order(weights_of(2, 4), torch.linalg.inv(moments), ENOUGH)
    assert found.isfinite().all()
    assert (found >= 0).all()
