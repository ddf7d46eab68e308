"""Changing training images a little, batch by batch, on their device."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from autoprune.errors import DataError

Augmentation = Literal["auto", "none", "crop_flip", "cutout"]
"""`crop_flip`: shift a batch by up to an eighth and mirror half of it; `cutout`: blank a square
of half the side in every image as well (DeVries and Taylor, 2017); `auto`: `crop_flip` for
natural images, those with 3 channels, else `none`: a mirrored digit is another symbol."""


def augmented(
    inputs: Tensor, generator: torch.Generator, kind: Augmentation = "auto"
) -> tuple[Tensor, Tensor | None]:
    """Return normalised inputs (n, ...) changed, and which are mirrored, bool (n,) or None.

    What comes in from outside an image is its mean. Raises `DataError` for inputs that are no
    images, unless `kind` is `auto` or `none`.
    """
    is_image = inputs.dim() == 4
    if kind == "auto":
        kind = "crop_flip" if is_image and inputs.shape[1] == 3 else "none"
    if kind == "none":
        return inputs, None
    if not is_image:
        raise DataError(
            f"augmentation {kind!r} needs images, but a sample has shape "
            f"{tuple(inputs.shape[1:])}; use 'auto' or 'none'"
        )
    images, mirrored = _shifted_and_mirrored(inputs, generator)
    return (_cut_out(images, generator) if kind == "cutout" else images), mirrored


def _shifted_and_mirrored(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    count, _, height, width = images.shape
    reach = height // 8
    padded = pad(images, (reach, reach, reach, reach))
    top, left = (int(torch.randint(2 * reach + 1, (1,), generator=generator)) for _ in range(2))
    shifted = padded[:, :, top : top + height, left : left + width]
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    mixed = torch.where(mirrored.view(-1, 1, 1, 1), shifted.flip(3), shifted)
    return mixed.contiguous(memory_format=torch.channels_last), mirrored


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blank a square around a random pixel of every image, as far as it lies inside."""
    count, _, height, width = images.shape
    rows, columns = (
        _span(size, count, height // 4, generator).to(images.device) for size in (height, width)
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _span(size: int, count: int, reach: int, generator: torch.Generator) -> Tensor:
    """Say which places of a side lie within `reach` of a random one, bool (count, size)."""
    distances = torch.arange(size) - torch.randint(size, (count, 1), generator=generator)
    return (distances >= -reach) & (distances < reach)
