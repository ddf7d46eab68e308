"""Criteria: the contract, and norms computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.criteria.l1 import L1
from autoprune.criteria.l2 import L2
from autoprune.criteria.random_criterion import Random
from autoprune.graph.group import PrunableGroup, Slice
from autoprune.testing import CriterionContract


class TestL1(CriterionContract):
    def make(self) -> L1:
        return L1()


class TestL2(CriterionContract):
    def make(self) -> L2:
        return L2()


class TestRandom(CriterionContract):
    def make(self) -> Random:
        return Random(seed=4)


def four_channels() -> tuple[PrunableGroup, dict[str, np.ndarray]]:
    entries = np.arange(4).reshape(-1, 1)
    group = PrunableGroup("conv", 4, (Slice("conv.weight", 0, 4, entries, "out"),))
    weights = np.array([[3.0, -4.0], [0.0, 1.0], [-2.0, 2.0], [0.0, 0.0]])
    return group, {"conv.weight": weights.reshape(4, 2, 1, 1)}


def test_l1_by_hand() -> None:
    # Sums of absolute weights 7, 1, 4, 0; their mean is 3.
    np.testing.assert_allclose(L1().score(*four_channels()), np.array([7, 1, 4, 0]) / 3)


def test_l2_by_hand() -> None:
    norms = np.array([5.0, 1.0, np.sqrt(8.0), 0.0])
    np.testing.assert_allclose(L2().score(*four_channels()), norms / norms.mean())


def test_layers_of_a_coupled_group_vote_equally() -> None:
    entries = np.arange(2).reshape(-1, 1)
    slices = tuple(Slice(f"{name}.weight", 0, 2, entries, "out") for name in ("small", "large"))
    group = PrunableGroup("small", 2, slices)
    weights = {
        "small.weight": np.array([[1.0], [3.0]]),
        "large.weight": np.array([[600.0], [200.0]]),
    }
    np.testing.assert_allclose(L1().score(group, weights), [1.0, 1.0])


def test_random_follows_its_seed() -> None:
    group, weights = four_channels()
    assert not np.array_equal(
        Random(seed=1).score(group, weights), Random(seed=2).score(group, weights)
    )


def test_weights_that_are_not_finite_are_named() -> None:
    group, weights = four_channels()
    weights["conv.weight"][1] = np.nan
    with pytest.raises(ValueError, match="group 'conv' are not finite"):
        L1().score(group, weights)
