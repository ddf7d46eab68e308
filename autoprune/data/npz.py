"""Labelled arrays from one .npz file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked, read_npz


class Npz(DataSource):
    """Your own arrays: an .npz file with x_train, y_train, x_test and y_test.

    Args:
        path: the file. Inputs are uint8 images (n, height, width, channels) or float32 of
            any shape (n, ...), channels first where a convolution reads them; labels are
            whole numbers (n,) counted from 0. Any other pair NAME_train and NAME_test of shape
            (n,) is an attribute, by which groups results may be judged.
        mean: what is subtracted from images scaled to [0, 1], one number per channel.
        std: what they are then divided by, one number per channel.
    """

    def __init__(
        self, *, path: str, mean: list[float] | None = None, std: list[float] | None = None
    ) -> None:
        self.path = Path(path).expanduser()
        self.mean = tuple(mean or ())
        self.std = tuple(std or ())

    def load(self) -> RawData:
        """Read the file; raises `DataError` if it is missing or does not fit."""
        parts = read_npz(self.path)
        raw = RawData(parts[0], parts[1], parts[2], parts[3], self.mean, self.std)
        train, test = self._attributes()
        return checked(replace(raw, train_attributes=train, test_attributes=test), self.path)

    def _attributes(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        with np.load(self.path, allow_pickle=False) as archive:
            endings = [each.removesuffix("_train") for each in archive.files if each != "x_train"]
            names = [each for each in endings if each != "y" and f"{each}_train" in archive.files]
            train = {name: archive[f"{name}_train"].astype(str) for name in names}
            test = {x: archive[f"{x}_test"].astype(str) for x in names if f"{x}_test" in archive}
        return train, test
