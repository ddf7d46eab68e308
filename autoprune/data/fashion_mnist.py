"""Fashion-MNIST from its four idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked
from autoprune.errors import DataError

# An idx file starts with two zero bytes, the type (8: unsigned bytes) and the number of axes,
# then the length of every axis as a big-endian 32-bit number.
_UNSIGNED_BYTES = 8


class FashionMnist(DataSource):
    """Fashion-MNIST: 28x28 grey images, 10 classes, 60,000 to train and 10,000 to test.

    Args:
        path: the directory of the four idx files (train-images-idx3-ubyte and so on, plain
            or .gz), or the one that holds them under FashionMNIST/raw, as torchvision does.
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path).expanduser()

    def load(self) -> RawData:
        """Read the images, uint8 (n, 28, 28, 1); raises `DataError` if they do not fit."""
        raw = RawData(
            self._read("train-images-idx3-ubyte", axes=3)[..., None],
            self._read("train-labels-idx1-ubyte", axes=1),
            self._read("t10k-images-idx3-ubyte", axes=3)[..., None],
            self._read("t10k-labels-idx1-ubyte", axes=1),
            mean=(0.2860,),
            std=(0.3530,),
        )
        return checked(raw, self.path)

    def _read(self, name: str, axes: int) -> np.ndarray:
        file = self._find(name)
        try:
            content = file.read_bytes()
            body = gzip.decompress(content) if file.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} cannot be read: {error}; download it again") from error
        return _parsed(body, axes, file)

    def _find(self, name: str) -> Path:
        for directory in (self.path, self.path / "FashionMNIST" / "raw"):
            for file in (directory / name, directory / f"{name}.gz"):
                if file.is_file():
                    return file
        raise DataError(
            f"no {name} or {name}.gz in {self.path} or {self.path / 'FashionMNIST' / 'raw'}; "
            "'path' must be the directory of the four Fashion-MNIST files"
        )


def _parsed(body: bytes, axes: int, file: Path) -> np.ndarray:
    start = 4 + 4 * axes
    lengths = [int.from_bytes(body[place : place + 4], "big") for place in range(4, start, 4)]
    is_expected = body[:4] == bytes([0, 0, _UNSIGNED_BYTES, axes])
    if not is_expected or len(body) != start + math.prod(lengths):
        raise DataError(
            f"{file} is not an intact idx file of unsigned bytes with {axes} axes (its header "
            f"is {body[:start].hex()}, its length {len(body)} bytes); download it again"
        )
    return np.frombuffer(body, dtype=np.uint8, offset=start).reshape(lengths)
