"""Sparse evolutionary training: small weights leave, others grow at random."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_share
from autoprune.recoveries._regrowth import Regrowing
from autoprune.recoveries.finetune import Finetune


class Set(Finetune):
    """Sparse evolutionary training: the smallest weights leave, as many grow at random.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", Nature Communications 9, 2018, algorithm 1. It
    starts with the weights that the policy's criterion keeps.

    Departures: the smallest in magnitude are dropped, not the smallest positive and the largest
    negative ones apart; what grows starts at zero, so that the network computes what it did;
    after the last step nothing grows. In N:M and in blocks, what grows is drawn within the
    pattern: in the groups that lost weights, or whole blocks.

    Args:
        every: steps from one change to the next (the paper's epoch).
        drop: the share of the weights that is replaced, the paper's ζ.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True

    def __init__(self, *, every: int = 10, drop: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        require_share("drop", drop)
        self.times = Times(1.0, every)
        self.drop = drop

    def masking(self, training: Training) -> Masking:
        """Return what replaces the smallest weights."""
        return _Set(training, self.times, self.drop)


class _Set(Regrowing):
    def after(self, step: int) -> None:
        super().after(step)
        if not self.is_due(step) or step + 1 == self.last:
            return
        # Next to the seed of dropout, so that the two draw different things.
        generator = torch.Generator().manual_seed((self.training.seeds(step)[1] + 1) % 2**63)
        growth = {
            name: torch.rand(each.shape, generator=generator).to(each.device)
            for name, each in self.kernels.items()
        }
        self.regrow(growth, self.drop)
