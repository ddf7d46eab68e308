"""The steps of kernels: one for every output channel, symmetric around zero."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from autoprune.quantization.form import bounds

WeightObserver = Literal["min_max", "mse"]

# Shares of the largest weight that the search for the least error tries, from where two bits
# have their best to the whole.
_SHARES = [each / 40 for each in range(8, 41)]


def kernel_steps(kernel: Tensor, bits: int, observer: WeightObserver) -> Tensor:
    """Return the step of each output channel of a kernel (outputs, ...), shape (outputs,).

    `min_max`: the largest weight is the largest whole number; `mse`: the share of it whose
    rounding errs least in the mean square. A channel of zeros has a step of one.
    """
    rows = kernel.detach().flatten(1).float()
    _, most = bounds(bits)
    widest = rows.abs().amax(1)
    widest = torch.where(widest / most > torch.finfo(torch.float32).tiny, widest, most)
    if observer == "min_max":
        return widest / most
    best, least = widest / most, torch.full_like(widest, torch.inf)
    for share in _SHARES:
        step = widest * (share / most)
        error = (nearest(rows, step, bits) * step[:, None] - rows).square_().sum(1)
        best = torch.where(error <= least, step, best)
        least = torch.minimum(error, least)
    return best


def nearest(kernel: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return the whole numbers (outputs, ...) nearest to a kernel in units of its steps."""
    shape = (-1, *[1] * (kernel.dim() - 1))
    return (kernel / steps.view(shape)).round_().clamp_(*bounds(bits))
