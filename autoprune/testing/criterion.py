"""Suite for criteria: inherit, and say how yours is made.

class TestMine(CriterionContract):
    def make(self):
        return Mine(seed=0)
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch

from autoprune.contracts.criterion import Criterion
from autoprune.graph.group import PrunableGroup, Slice

UNITS = 6
_ORDER = np.array([3, 1, 5, 0, 4, 2])


class CriterionContract:
    """What every criterion promises, on a convolution that a linear layer reads."""

    def make(self) -> Criterion:
        """Return the criterion under test."""
        raise NotImplementedError

    def group(self, order: np.ndarray | None = None) -> PrunableGroup:
        """Return the group under test, its units in the given order."""
        units = np.arange(UNITS) if order is None else order
        entries = units.reshape(-1, 1)
        slices = (
            Slice("conv.weight", 0, UNITS, entries, "out"),
            Slice("linear.weight", 1, UNITS, entries, "in"),
        )
        return PrunableGroup("conv", UNITS, slices)

    def weights(self, order: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
        """Return distinct weights for the group's layers, its channels in the given order."""
        channels = np.arange(UNITS) if order is None else order
        rng = np.random.default_rng(3)
        return {
            "conv.weight": rng.normal(size=(UNITS, 4, 3, 3)).astype(np.float32)[channels],
            "linear.weight": rng.normal(size=(5, UNITS)).astype(np.float32)[:, channels],
        }

    def test_there_is_one_finite_score_per_unit(self) -> None:
        scores = self.make().score(self.group(), self.weights())
        assert scores.shape == (UNITS,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_reordering_units_reorders_scores(self) -> None:
        plain = self.make().score(self.group(), self.weights())
        moved = self.make().score(self.group(_ORDER), self.weights())
        np.testing.assert_allclose(moved, plain[_ORDER], rtol=1e-12)

    def test_reordering_channels_reorders_scores(self) -> None:
        plain = self.make().score(self.group(), self.weights())
        moved = self.make().score(self.group(), self.weights(_ORDER))
        np.testing.assert_allclose(moved, plain[_ORDER], rtol=1e-12)

    def test_scores_are_repeatable(self) -> None:
        criterion = self.make()
        first = criterion.score(self.group(), self.weights())
        np.testing.assert_array_equal(criterion.score(self.group(), self.weights()), first)
        np.testing.assert_array_equal(self.make().score(self.group(), self.weights()), first)

    def test_weights_are_left_as_they_were(self) -> None:
        weights = self.weights()
        before = {name: each.copy() for name, each in weights.items()}
        self.make().score(self.group(), weights)
        assert list(weights) == list(before)
        for name, each in before.items():
            np.testing.assert_array_equal(weights[name], each)

    def test_no_global_random_state_is_read_or_changed(self) -> None:
        scores = []
        for seed in (1, 2):
            # The global generators are what is watched: restored when it is over.
            before = random.getstate(), np.random.get_state(), torch.get_rng_state()
            try:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                disturbed = random.getstate(), _numpy_state(), torch.get_rng_state()
                scores.append(self.make().score(self.group(), self.weights()))
                assert random.getstate() == disturbed[0]
                assert _numpy_state() == disturbed[1]
                assert torch.equal(torch.get_rng_state(), disturbed[2])
            finally:
                random.setstate(before[0])
                np.random.set_state(before[1])
                torch.set_rng_state(before[2])
        np.testing.assert_array_equal(scores[0], scores[1])


def _numpy_state() -> tuple[list[int], int]:
    inner = np.random.get_state(legacy=False)["state"]
    return inner["key"].tolist(), inner["pos"]
