"""DeepHoyer: a regulariser that draws small weights to zero and leaves large ones alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Cut, Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_positive
from autoprune.recoveries.finetune import Finetune


class DeepHoyer(Finetune):
    """Sparse learning with the Hoyer-square regulariser, then a cut, then training of the rest.

    Yang, Wen and Li, "DeepHoyer: learning sparser neural network with differentiable
    scale-invariant sparsity measures", ICLR 2020, section 3: to the loss is added
    α Σ (Σ|w|)² / Σw² of every kernel, which lies between 1 and the number of weights and does
    not shrink them all.

    Departures: the cut is to the policy's share of every kernel, by magnitude, not at a common
    threshold; only kernels that lose weights are regularised.

    Args:
        strength: the factor of the regulariser, the paper's α.
        until: the share of the steps after which weights are cut; the rest trains on.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True
    reads_criterion: ClassVar[bool] = False

    def __init__(self, *, strength: float = 1e-3, until: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        require_positive("strength", strength)
        self.strength = strength
        self.times = Times(until)

    def masking(self, training: Training) -> Masking:
        """Return what regularises, and cuts."""
        return _DeepHoyer(training, self.times, self.strength)


class _DeepHoyer(Cut):
    def __init__(self, training: Training, times: Times, strength: float) -> None:
        super().__init__(training, times)
        self.strength = strength

    def penalty(self, step: int) -> Tensor | None:
        if step >= self.last or not self.kernels:
            return None
        return self.strength * torch.stack([*map(_hoyer_square, self.kernels.values())]).sum()


def _hoyer_square(kernel: Tensor) -> Tensor:
    """Return (Σ|w|)² / Σw², which is about how many weights are not small."""
    squares = kernel.square().sum().clamp_min(torch.finfo(kernel.dtype).tiny)
    return kernel.abs().sum().square() / squares
