"""Labelled arrays from one .npz file."""

from __future__ import annotations

from pathlib import Path

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked, read_npz


class Npz(DataSource):
    """Your own arrays: an .npz file with x_train, y_train, x_test and y_test.

    Args:
        path: the file. Inputs are uint8 images (n, height, width, channels) or float32 of
            any shape (n, ...), channels first where a convolution reads them; labels are
            whole numbers (n,) counted from 0.
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
        return checked(raw, self.path)
