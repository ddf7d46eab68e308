"""Suite for data sources: inherit, and say how yours is made."""

from __future__ import annotations

import numpy as np

from autoprune.contracts.data import DataSource


class DataSourceContract:
    """What every data source promises."""

    def make(self) -> DataSource:
        """Return the source under test."""
        raise NotImplementedError

    def test_inputs_and_labels_fit(self) -> None:
        raw = self.make().load()
        pairs = ((raw.train_inputs, raw.train_labels), (raw.test_inputs, raw.test_labels))
        for inputs, labels in pairs:
            assert len(inputs) == len(labels) > 0
            assert inputs.dtype in (np.uint8, np.float32)
            assert labels.dtype == np.int64
            assert labels.min() >= 0
        assert raw.train_inputs.shape[1:] == raw.test_inputs.shape[1:]
        assert len(raw.mean) == len(raw.std)

    def test_loading_again_gives_the_same(self) -> None:
        first, second = self.make().load(), self.make().load()
        np.testing.assert_array_equal(first.train_inputs, second.train_inputs)
        np.testing.assert_array_equal(first.test_labels, second.test_labels)
