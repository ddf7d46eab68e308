"""Images in one directory per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from autoprune.contracts.data import DataSource, RawData
from autoprune.data._arrays import checked
from autoprune.errors import DataError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})
# ImageNet's usual preparation: of a shorter side of 256, the middle 224.
_RESIZE = 256 / 224


class ImageFolder(DataSource):
    """Your own images: train/CLASS/*.png and test/CLASS/*.png (or val/), any image format.

    All images are held in memory, image_size x image_size x 3 bytes each. Classes are
    numbered in the order of their sorted names.

    Args:
        path: the directory that holds `train` and `test` (or `val`, where there is no `test`).
        image_size: side of the square images in pixels. The shorter side is scaled to 256/224
            of it and the middle is cut out, as is usual for ImageNet.
    """

    def __init__(self, *, path: str, image_size: int = 224) -> None:
        if image_size < 1:
            raise DataError(f"'image_size' must be at least 1 pixel, given {image_size}")
        self.path = Path(path).expanduser()
        self.image_size = image_size

    def load(self) -> RawData:
        """Read every image as uint8 (n, size, size, 3), normalised as ImageNet is.

        Raises `DataError` for a missing or empty directory, classes that differ between
        the two parts, and files that cannot be read as images.
        """
        train = self._part("train")
        test = self._part("test", "val")
        train_classes, test_classes = _classes(train), _classes(test)
        if train_classes != test_classes:
            odd = sorted(set(train_classes) ^ set(test_classes))
            raise DataError(
                f"{train} and {test} must hold the same classes; only one of them has: "
                f"{', '.join(odd)}"
            )
        parts = (*self._read(train, train_classes), *self._read(test, test_classes))
        return checked(RawData(parts[0], parts[1], parts[2], parts[3], _MEAN, _STD), self.path)

    def _part(self, *names: str) -> Path:
        for name in names:
            if (self.path / name).is_dir():
                return self.path / name
        raise DataError(
            f"no directory {' or '.join(repr(name) for name in names)} in {self.path}; expected "
            "train/CLASS/*.png and test/CLASS/*.png (or val/)"
        )

    def _read(self, directory: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in _images(directory / name)
        ]
        pixels = np.empty((len(files), self.image_size, self.image_size, 3), dtype=np.uint8)
        for row, (file, _) in enumerate(files):
            pixels[row] = self._pixels(file)
        return pixels, np.asarray([label for _, label in files], dtype=np.int64)

    def _pixels(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be read as an image: {error}") from error
        scale = round(self.image_size * _RESIZE) / min(image.size)
        width, height = (max(self.image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self.image_size) // 2, (height - self.image_size) // 2
        cut = image.crop((left, top, left + self.image_size, top + self.image_size))
        return np.asarray(cut)


def _classes(directory: Path) -> list[str]:
    names = sorted(each.name for each in directory.iterdir() if each.is_dir())
    if not names:
        raise DataError(f"{directory} holds no class directories; expected {directory}/CLASS/*.png")
    return names


def _images(directory: Path) -> list[Path]:
    files = sorted(each for each in directory.iterdir() if each.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(
            f"{directory} holds no images; known endings: {', '.join(sorted(_SUFFIXES))}"
        )
    return files
