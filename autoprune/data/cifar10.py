"""CIFAR-10 from one .npz file or from its original Python batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import Parts, checked, read_npz
from autoprune.errors import DataError

# Those of ImageNet, as the published CIFAR ResNets were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Cifar10(DataSource):
    """CIFAR-10: 32x32 colour images, 10 classes, 50,000 to train and 10,000 to test.

    Args:
        path: an .npz file with x_train, y_train, x_test and y_test, or the directory that
            holds `cifar-10-batches-py`, as torchvision downloads it.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path).expanduser()

    def load(self) -> RawData:
        """Read the images, uint8 (n, 32, 32, 3); raises `DataError` if they do not fit."""
        parts = self._batches() if self.path.is_dir() else read_npz(self.path)
        raw = checked(RawData(parts[0], parts[1], parts[2], parts[3], _MEAN, _STD), self.path)
        if raw.train_inputs.shape[1:] != (32, 32, 3) or raw.num_classes > 10:
            raise DataError(
                f"{self.path}: CIFAR-10 has images of shape (32, 32, 3) and labels 0 to 9, "
                f"given images of shape {raw.train_inputs.shape[1:]} and labels up to "
                f"{raw.num_classes - 1}; for other data use the source 'npz'"
            )
        return raw

    def _batches(self) -> Parts:
        from autoprune.vision import ensure_torchvision

        ensure_torchvision()
        from torchvision.datasets import CIFAR10

        try:
            # torchvision compares the files with known checksums before it opens them.
            train, test = (
                CIFAR10(str(self.path), train=is_train, download=False)
                for is_train in (True, False)
            )
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.path} is a directory without an intact CIFAR-10 ({error}); expected "
                f"{self.path / CIFAR10.base_folder} with data_batch_1 to data_batch_5, "
                "test_batch and batches.meta, or the path of an .npz file"
            ) from error
        return train.data, np.asarray(train.targets), test.data, np.asarray(test.targets)
