"""Network slimming: the batch norm scales of the units that leave are driven to zero."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.recoveries._penalty import PenalisedUnits
from autoprune.recoveries._units import Units


class Slimming(PenalisedUnits):
    """Network slimming: an L1 penalty on the batch norm scales of the units that leave.

    Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017,
    equation 1: the loss and λ Σ |γ|.

    Departures: the paper penalises all scales and removes the units whose scales became
    smallest, wherever they are; here the policy's counts and criterion choose the units before
    the training, so that they follow from the policy alone, and their scales alone are
    penalised. Of units without batch norm, which the paper leaves whole, what makes them is
    penalised instead: the rows of their kernels, their biases, and what else goes with them.
    After `until` of the steps the units are zero, and the rest trains on without them.

    Args:
        strength: λ; the paper's is 0.0001, for many more steps and all scales.
        until: the share of the steps after which the units are zero.
        options: those of `finetune`, without `patience`; the schedule begins after `until`.
    """

    def penalty(self, units: Units) -> Tensor:
        """Return the sum of the units' scales, Σ |γ|, or of all that makes units without scales."""
        parts = units.scales or units.parts
        return torch.cat([each.values for each in parts], 1).abs().sum()
