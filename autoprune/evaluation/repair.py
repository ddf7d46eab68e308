"""Repair without training: batch-norm statistics of the carved network.

Removing channels shifts every distribution behind them; until the running statistics are
taken anew, candidates cannot even be ranked (Li et al., EagleEye, ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.evaluation.inference import cast


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Replace the running statistics by the average over `batches`, each of weight one.

    Forward passes run in `dtype`; statistics are kept in float32. Everything but the batch
    norms stays in eval mode.
    """
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm)]
    tracked = [each for each in norms if each.track_running_stats]
    if not tracked:
        return
    momenta = [each.momentum for each in tracked]
    network.eval()
    for norm in tracked:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    form = cast(network, dtype)
    for batch in batches:
        form(batch)
    for norm, momentum in zip(tracked, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
