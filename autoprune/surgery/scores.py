"""Scores of all prunable groups under one criterion."""

from __future__ import annotations

import numpy as np
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from autoprune.contracts.criterion import Criterion
from autoprune.errors import PluginError
from autoprune.graph.group import GroupTable
from autoprune.graph.layers import Weighted


def score_groups(
    model: nn.Module, groups: GroupTable, criterion: Criterion
) -> dict[str, np.ndarray]:
    """Return the scores of every prunable group, shape (units,) each.

    Raises `PluginError` when the criterion gives the wrong number of scores, or scores
    that are not finite.
    """
    weights = {
        name: _outputs_first(module)
        for name, module in model.named_modules()
        if isinstance(module, Weighted) and not is_parametrized(module)
    }
    scores = {}
    for group in groups.prunable:
        each = np.asarray(criterion.score(group, weights), dtype=np.float64)
        if each.shape != (group.units,) or not np.isfinite(each).all():
            raise PluginError(
                f"criterion {type(criterion).__name__} scored group {group.name!r} with shape "
                f"{each.shape}; expected ({group.units},) finite numbers"
            )
        scores[group.name] = each
    return scores


def _outputs_first(module: nn.Module) -> np.ndarray:
    weight = module.get_parameter("weight").detach().float().cpu()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        weight = weight.transpose(0, 1)
    return np.asarray(weight.numpy())
