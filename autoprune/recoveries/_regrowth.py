"""Small weights leave and others grow in their place: dynamic sparse training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.policy import LayerDecision
from autoprune.recoveries._chosen import Timed, Times
from autoprune.surgery.sparsify import mask_of


def decayed(drop: float, taken: int, last: int) -> float:
    """Return the share that is dropped after so many steps: a cosine down to nothing at `last`.

    α / 2 (1 + cos(π t / T)) (Evci et al., ICML 2020, section 3).
    """
    return 0.5 * drop * (1.0 + math.cos(math.pi * min(1.0, taken / last)))


@torch.no_grad()
def regrown(
    weights: Tensor,
    mask: Tensor,
    growth: Tensor,
    decision: LayerDecision,
    *,
    drop: float,
    share: float = 1.0,
) -> Tensor:
    """Return which weights of a kernel stay or grow, of `share` of all that leaves.

    Of those in `mask` the largest stay, less a share `drop` of them; in place of those grow
    the ones of the highest `growth`, which is not negative, among all others. Those that were
    dropped are among the others (as in both papers' code). Blocks are dropped and grow as a
    whole, by means; in N:M they grow in the groups in which others were dropped.
    """
    magnitudes = torch.where(mask, weights.abs(), -1.0)
    kept = mask_of(magnitudes, decision, share)
    kept &= _survivors(torch.where(kept, magnitudes, -1.0), kept, decision, share, drop)
    growth = growth / growth.max().clamp_min(torch.finfo(growth.dtype).tiny)
    return mask_of(torch.where(kept, 2.0, growth), decision, share)


def _survivors(
    magnitudes: Tensor, kept: Tensor, decision: LayerDecision, share: float, drop: float
) -> Tensor:
    """Return the largest of what is kept, without a share `drop`; of N:M wherever they are."""
    if decision.shape.is_n_of_m:
        count = int(kept.sum())
        ratio = max(1, round(count * (1.0 - drop))) / kept.numel()
        return mask_of(magnitudes, LayerDecision(keep_ratio=ratio))
    left = 1.0 - decision.keep_ratio
    ratio = (1.0 - share * left) * (1.0 - drop)
    return mask_of(magnitudes, decision, (1.0 - ratio) / left)


class Regrowing(Timed):
    """Starts with the masks that were chosen before, and keeps their count.

    `drop` is the share of the weights that leaves when others grow.
    """

    def __init__(self, training: Training, times: Times, drop: float) -> None:
        super().__init__(training, times)
        self.drop = drop

    def first(self) -> dict[str, Tensor]:
        """Return the masks that the criterion wants."""
        return self.sparsity.masks()

    def regrow(self, growth: Mapping[str, Tensor], drop: float, share: float = 1.0) -> None:
        """Drop a share of the weights of every kernel and let others grow, from zero."""
        decisions = self.sparsity.decisions if self.kernels else {}
        self.take(
            {
                name: regrown(
                    self.kernels[name].detach(),
                    self.masks[name],
                    growth[name],
                    decision,
                    drop=drop,
                    share=share,
                )
                for name, decision in decisions.items()
            }
        )

    def gradients(self) -> dict[str, Tensor]:
        """Return how large the gradients of all weights are, also of those that left."""
        return {
            name: torch.zeros_like(each) if each.grad is None else each.grad.abs()
            for name, each in self.kernels.items()
        }
