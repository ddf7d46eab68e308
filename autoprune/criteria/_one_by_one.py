"""Single weights leave a kernel one by one, each where it costs least, and the rest make up for it.

After Frantar and Alistarh, Optimal Brain Compression, NeurIPS 2022 (ExactOBS).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Numbers that systems of rows which are emptied at once may hold.
_AT_ONCE = 2**24
_NARROWEST = 16


def losses_in_order(weights: Tensor, inverse: Tensor, operations: float) -> Tensor:
    """Return the highest w²/[H⁻¹]_jj that was paid until a weight had left, shape (m, d).

    `weights` has shape (m, d) and `inverse` (d, d): of all that a row may correct with, those
    rows and columns whose weights may leave. Every row is emptied by itself: the cheapest of
    its weights leaves, w and H⁻¹ are updated by eliminating it, and so on. That takes m d³
    operations; where these are more than `operations`, inputs are gone through in blocks, and
    what leaves a block makes the costs of that block alone rise.
    """
    rows, inputs = weights.shape
    block = min(inputs, max(_NARROWEST, math.isqrt(int(operations / (rows * inputs)))))
    found = torch.empty_like(weights)
    for columns in torch.arange(inputs, device=weights.device).split(block):
        own = inverse.index_select(0, columns).index_select(1, columns)
        many = max(1, _AT_ONCE // len(columns) ** 2)
        for some in torch.arange(rows, device=weights.device).split(many):
            part = weights[some[:, None], columns]
            found[some[:, None], columns] = _emptied(part, own)
    return found


def _emptied(weights: Tensor, inverse: Tensor) -> Tensor:
    """Return the same for rows that are emptied at once, each in an order of its own."""
    rows = torch.arange(len(weights), device=weights.device)
    found, worst = torch.empty_like(weights), weights.new_zeros(len(weights))
    systems = inverse.expand(len(weights), -1, -1).clone()
    names = torch.arange(weights.shape[1], device=weights.device).expand(weights.shape).clone()
    is_gone, weights = torch.zeros_like(weights, dtype=torch.bool), weights.clone()
    for step in range(1, found.shape[1] + 1):
        # Rounding may leave next to nothing of what the others determine.
        bends = systems.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(weights.dtype).tiny)
        costs = (weights.square() / bends).masked_fill(is_gone, torch.inf)
        cost, place = costs.min(dim=1)
        worst = torch.maximum(worst, cost)
        found[rows, names[rows, place]] = worst
        shares = systems[rows, place]
        pivots = bends[rows, place][:, None]
        weights -= shares * (weights[rows, place][:, None] / pivots)
        systems.addcmul_(shares[:, :, None], (shares / pivots)[:, None, :], value=-1.0)
        is_gone[rows, place] = True
        left = found.shape[1] - step
        if 0 < left <= 0.75 * weights.shape[1]:  # what is gone need not be carried along for ever
            stays = (~is_gone).nonzero()[:, 1].view(-1, left)
            systems = systems.gather(1, stays[:, :, None].expand(-1, -1, systems.shape[2]))
            systems = systems.gather(2, stays[:, None, :].expand(-1, left, -1))
            weights, names = weights.gather(1, stays), names.gather(1, stays)
            is_gone = torch.zeros_like(weights, dtype=torch.bool)
    return found
