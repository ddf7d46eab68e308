"""Suite for criteria: inherit, and say how yours is made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.contracts.criterion import Criterion
from autoprune.graph.group import PrunableGroup, Slice

UNITS = 6


class CriterionContract:
    """What every criterion promises, on a convolution that a linear layer reads."""

    def make(self) -> Criterion:
        """Return the criterion under test."""
        raise NotImplementedError

    def group(self, order: np.ndarray | None = None) -> PrunableGroup:
        """Return the group under test, its units in the given order."""
        units = np.arange(UNITS) if order is None else order
        entries = units.reshape(-1, 1)
        slices = (Slice("conv", "out", UNITS, entries), Slice("linear", "in", UNITS, entries))
        return PrunableGroup("conv", UNITS, slices)

    def weights(self) -> Mapping[str, np.ndarray]:
        """Return distinct weights for the group's layers."""
        rng = np.random.default_rng(3)
        return {
            "conv": rng.normal(size=(UNITS, 4, 3, 3)).astype(np.float32),
            "linear": rng.normal(size=(5, UNITS)).astype(np.float32),
        }

    def test_there_is_one_finite_score_per_unit(self) -> None:
        scores = self.make().score(self.group(), self.weights())
        assert scores.shape == (UNITS,)
        assert np.isfinite(scores).all()

    def test_reordering_units_reorders_scores(self) -> None:
        order = np.array([3, 1, 5, 0, 4, 2])
        plain = self.make().score(self.group(), self.weights())
        moved = self.make().score(self.group(order), self.weights())
        np.testing.assert_allclose(moved, plain[order], rtol=1e-12)

    def test_scores_are_repeatable_and_touch_nothing(self) -> None:
        weights = self.weights()
        before = {name: each.copy() for name, each in weights.items()}
        for each in weights.values():
            each.flags.writeable = False
        state = str(np.random.get_state())  # the global state is what is watched
        first = self.make().score(self.group(), weights)
        second = self.make().score(self.group(), weights)
        np.testing.assert_array_equal(first, second)
        assert str(np.random.get_state()) == state
        for name, each in before.items():
            np.testing.assert_array_equal(weights[name], each)
