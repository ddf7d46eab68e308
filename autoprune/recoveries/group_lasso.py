"""Group lasso: all that makes a unit that leaves is driven to zero together."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.recoveries._penalty import PenalisedUnits
from autoprune.recoveries._units import Units


class GroupLasso(PenalisedUnits):
    """Group lasso: a penalty on the norms of the units that leave, which makes them zero whole.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", Journal
    of the Royal Statistical Society B 68, 2006, equation 2.1; for the channels of networks Wen
    et al., "Learning structured sparsity in deep neural networks", NeurIPS 2016: the loss and
    λ Σ √p ‖w‖₂ over units of p weights w.

    Departures: the papers penalise all units and remove those that became zero; here the
    policy's counts and criterion choose the units before the training, so that they follow from
    the policy alone, and they alone are penalised. w is all that makes a unit: of a residual
    stage the rows of all its kernels, and their biases and the scales and shifts of norms, which
    would undo what kernels alone lose. After `until` of the steps the units are zero, and the
    rest trains on without them.

    Args:
        strength: λ.
        until: the share of the steps after which the units are zero.
        options: those of `finetune`, without `patience`; the schedule begins after `until`.
    """

    def penalty(self, units: Units) -> Tensor:
        """Return Σ √p ‖w‖₂; where a unit is zero its gradient is zero."""
        norms: Tensor = torch.linalg.vector_norm(units.values, dim=1)
        return (units.sizes.sqrt() * norms).sum()
