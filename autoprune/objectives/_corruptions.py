"""Common corruptions of images, on their device: seeded, five severities.

After Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations" (ICLR 2019): those that need no other image and no codec. The levels of noise,
contrast and pixelation are theirs, of CIFAR-10-C for small images and of ImageNet-C for others.
Brightness is added to the channels, not to HSV's value; the blur is an anti-aliased disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

_SMALL = 64  # pixels: shorter sides take the levels of small images


def _gaussian_noise(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    import torch

    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images + deviation * noise


def _shot_noise(images: Tensor, photons: float, generator: Generator) -> Tensor:
    import torch

    return torch.poisson(images * photons, generator=generator) / photons


def _defocus_blur(images: Tensor, radius: float, _: Generator) -> Tensor:
    import torch
    from torch.nn.functional import conv2d, pad

    reach = int(radius + 0.5)
    axis = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    # A pixel that the disk's edge cuts counts by about the part that is inside.
    disk = (radius + 0.5 - torch.hypot(axis[:, None], axis[None, :])).clamp(0, 1)
    channels = images.shape[1]
    kernel = (disk / disk.sum()).expand(channels, 1, -1, -1)
    return conv2d(pad(images, [reach] * 4, mode="replicate"), kernel, groups=channels)


def _pixelate(images: Tensor, part: float, _: Generator) -> Tensor:
    from torch.nn.functional import interpolate

    sides = images.shape[2:]
    coarse = interpolate(images, [int(side * part) or 1 for side in sides], mode="area")
    return interpolate(coarse, sides, mode="nearest")


def _contrast(images: Tensor, factor: float, _: Generator) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _brightness(images: Tensor, amount: float, _: Generator) -> Tensor:
    return images + amount


@dataclass(frozen=True, slots=True)
class _Corruption:
    """`apply` takes images, a level and a generator; a level for each severity and size."""

    apply: Callable[[Tensor, float, Generator], Tensor]
    small: tuple[float, ...]
    large: tuple[float, ...]


_CORRUPTIONS: Mapping[str, _Corruption] = {
    "gaussian_noise": _Corruption(
        _gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": _Corruption(_shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "defocus_blur": _Corruption(_defocus_blur, (0.55, 0.65, 0.8, 1.2, 1.7), (3, 4, 6, 8, 10)),
    "pixelate": _Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "contrast": _Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": _Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
}
KINDS = tuple(_CORRUPTIONS)


def corrupt(images: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    """Return corrupted copies of `images` (n, channels, height, width) in [0, 1].

    `severity` is 1 to 5. The same call on the same device gives the same images.
    """
    import torch

    corruption = _CORRUPTIONS[kind]
    levels = corruption.small if min(images.shape[2:]) < _SMALL else corruption.large
    generator = torch.Generator(images.device).manual_seed(seed)
    return corruption.apply(images, levels[severity - 1], generator).clamp(0, 1)
