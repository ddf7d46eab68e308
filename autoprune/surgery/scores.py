"""Scores of all prunable groups under one criterion."""

from __future__ import annotations

import numpy as np
from torch import nn

from autoprune.contracts.criterion import Criterion
from autoprune.errors import PluginError
from autoprune.graph.group import GroupTable


def score_groups(
    model: nn.Module, groups: GroupTable, criterion: Criterion
) -> dict[str, np.ndarray]:
    """Return the scores of every prunable group, shape (units,) each.

    Raises `PluginError` when the criterion gives the wrong number of scores, or scores
    that are not finite.
    """
    weights = {
        name: np.asarray(each.detach().float().cpu().numpy())
        for name, each in model.named_parameters()
        if each.is_floating_point()
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
