"""What a criterion finds all units or single weights worth: without gaps; units without ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from autoprune import plugins
from autoprune.contracts.criterion import Criterion, WeightCriterion
from autoprune.errors import PluginError
from autoprune.graph.group import PrunableGroup
from autoprune.graph.units import norms
from autoprune.job.spec import PluginSpec
from autoprune.scoring.evidence import Evidence
from autoprune.surgery.plan import Plan


@dataclass(frozen=True)
class ScoreTable:
    """The scores of every prunable group, shape (units,) each; no two of a group are equal.

    `fallen_back` names groups of which the criterion tells nothing: there is nothing that it
    could see, or it finds all units alike. They are ranked by the L1 norm of their weights.
    """

    scores: Mapping[str, np.ndarray]
    fallen_back: tuple[str, ...] = ()


@dataclass(frozen=True)
class SaliencyTable:
    """What every weight of every kernel is worth, float32 in the kernel's shape, on the CPU.

    `fallen_back` names kernels of which the criterion tells nothing: they lose their smallest
    weights.
    """

    saliencies: Mapping[str, Tensor]
    fallen_back: tuple[str, ...] = ()


def score_groups(criterion: Criterion, evidence: Evidence) -> ScoreTable:
    """Score every prunable group.

    Of equal scores, the unit whose weights have the larger L1 norm is worth more; of units that
    are equal in this too, the earlier. Raises `PluginError` when the criterion gives the wrong
    number of scores, or scores that are not finite.
    """
    given = criterion.scores(evidence)
    groups = evidence.groups.prunable
    magnitudes = {each.name: _magnitude(each, evidence) for each in groups}
    known = {
        each.name: checked
        for each in groups
        if (checked := _checked(given.get(each.name), criterion, each)) is not None
    }
    # On the scale of what is known, for those who compare groups.
    scale = float(np.mean([np.abs(each).mean() for each in known.values()])) if known else 1.0
    scores = {
        name: _without_ties(known.get(name, scale * magnitude), magnitude)
        for name, magnitude in magnitudes.items()
    }
    return ScoreTable(scores, tuple(name for name in scores if name not in known))


def weigh_kernels(criterion: WeightCriterion, evidence: Evidence) -> SaliencyTable:
    """Weigh the weights of every kernel.

    Raises `PluginError` when the criterion gives saliencies of another shape, or that are not
    finite.
    """
    given = criterion.saliencies(evidence)
    found = {}
    for name in evidence.kernels:
        weights = evidence.weights[name]
        known = np.asarray(given.get(name, abs(weights)))
        is_finite = bool(np.isfinite(known).all())
        if known.shape != weights.shape or not is_finite:
            what = f"shape {known.shape}" if is_finite else "saliencies that are not finite"
            raise PluginError(
                f"criterion {type(criterion).__name__} weighed kernel {name!r} with {what}; "
                f"expected {weights.shape} finite numbers"
            )
        found[name] = torch.from_numpy(known).float()
    return SaliencyTable(found, tuple(name for name in found if name not in given))


def plan_by(name: str, evidence: Evidence, *, seed: int = 0) -> Plan:
    """Return the plan of a network whose units the criterion `name` ranks."""
    criterion: Criterion = plugins.create("criterion", PluginSpec(name=name), seed=seed)
    scores = score_groups(criterion, evidence).scores
    return Plan(evidence.model, evidence.groups, {name: scores})


def _magnitude(group: PrunableGroup, evidence: Evidence) -> np.ndarray:
    found = norms(group, evidence.weights, 1.0)
    return np.zeros(group.units) if found is None else found


def _checked(
    given: np.ndarray | None, criterion: Criterion, group: PrunableGroup
) -> np.ndarray | None:
    """Return a group's scores as float64; None where they tell units from one another in nothing.

    Raises `PluginError` for scores that are none.
    """
    if given is None:
        return None
    name, scores = type(criterion).__name__, np.asarray(given, dtype=np.float64)
    if scores.shape != (group.units,):
        raise PluginError(
            f"criterion {name} scored group {group.name!r} with shape {scores.shape}; "
            f"expected ({group.units},) finite numbers"
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise PluginError(
            f"criterion {name} scored {len(wrong)} of {group.units} units of group "
            f"{group.name!r} with {scores[wrong[0]]}; the network's weights, or its outputs on "
            "the training data, may not be finite themselves"
        )
    return None if group.units > 1 and np.ptp(scores) == 0.0 else scores


def _without_ties(scores: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Return scores in which equal ones differ by as little as numbers can."""
    order = np.lexsort((-np.arange(len(scores)), magnitude, scores))
    apart = scores.copy()
    for lower, upper in pairwise(order):
        if apart[upper] <= apart[lower]:
            apart[upper] = np.nextafter(apart[lower], np.inf)
    return apart
