"""The contract of a data source: labelled arrays, split into training and test.

source = Digits()
source.load()         # RawData(train_inputs (1078, 8, 8, 1) uint8, ...)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class RawData:
    """Labelled arrays as they lie on disk.

    Images are uint8 of shape (n, height, width, channels) and are scaled to [0, 1], then
    normalised by `mean` and `std` (one number per channel). Other inputs are float32 of
    shape (n, ...) and are used as they are. Labels are int64 of shape (n,). Attributes say by
    which groups results may be judged: name → values of every sample, shape (n,), text.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    train_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    test_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes: the largest label plus one."""
        return int(max(self.train_labels.max(initial=0), self.test_labels.max(initial=0))) + 1


class DataSource(ABC):
    """Reads labelled arrays. Its constructor's keyword-only options are what a job sets."""

    @abstractmethod
    def load(self) -> RawData:
        """Read the data; raises `DataError` that names the missing or unfit file."""
