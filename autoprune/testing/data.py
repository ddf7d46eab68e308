"""Suite for data sources: inherit, and say how yours is made.

class TestMine(DataSourceContract):
    def make(self):
        return Mine(path=...)
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from autoprune.contracts.data import DataSource, RawData


class DataSourceContract:
    """What every data source promises."""

    def make(self) -> DataSource:
        """Return the source under test."""
        raise NotImplementedError

    def test_inputs_are_images_of_bytes_or_finite_floats(self) -> None:
        raw = self.make().load()
        assert raw.train_inputs.dtype == raw.test_inputs.dtype
        assert raw.train_inputs.shape[1:] == raw.test_inputs.shape[1:]
        for inputs in (raw.train_inputs, raw.test_inputs):
            assert len(inputs) > 0
            if inputs.dtype == np.uint8:
                assert inputs.ndim == 4, "images have shape (n, height, width, channels)"
            else:
                assert inputs.dtype == np.float32
                assert np.isfinite(inputs).all()

    def test_labels_count_from_zero_without_an_unknown_class(self) -> None:
        raw = self.make().load()
        for inputs, labels in (
            (raw.train_inputs, raw.train_labels),
            (raw.test_inputs, raw.test_labels),
        ):
            assert labels.dtype == np.int64
            assert labels.shape == (len(inputs),)
            assert labels.min() >= 0
            assert labels.max() < raw.num_classes
        unseen = set(raw.test_labels.tolist()) - set(raw.train_labels.tolist())
        assert not unseen, f"classes {sorted(unseen)} are tested but never trained"

    def test_normalisation_has_a_pair_of_numbers_per_channel(self) -> None:
        raw = self.make().load()
        assert len(raw.mean) == len(raw.std)
        assert len(raw.mean) in (0, raw.train_inputs.shape[-1])
        assert np.isfinite(raw.mean).all()
        assert all(np.isfinite(each) and each > 0 for each in raw.std)

    def test_loading_again_gives_the_same(self) -> None:
        first, second = self.make().load(), self.make().load()
        for each in fields(RawData):
            np.testing.assert_array_equal(getattr(first, each.name), getattr(second, each.name))
