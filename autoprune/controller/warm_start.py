"""Warm starts: the front of an earlier run, carried over to the groups of this one.

Only policies are carried over, never values: the earlier run may have judged another
model, other data or other images, so what it found is tried again here, first of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import InputError
from autoprune.graph.group import GroupTable
from autoprune.policy import LayerDecision, Policy

# Enough to show where the front of the earlier run lies, few beside a budget of a hundred.
_MOST = 20


def carried_over(
    policies: Sequence[Policy], source: GroupTable, problem: SearchProblem
) -> list[Policy]:
    """Return canonical policies of `problem`'s space that resemble those of another run.

    Groups of the same name keep the same share, layers of the same name their bits and ranks.
    Where the networks differ, as those of one family do, a group keeps the share that is kept
    at its relative depth, and a layer has the bits that are there. At most 20 policies come
    back, spread over the given ones, which are taken to be in order.

    Raises `InputError` where there is nothing to carry over.
    """
    if not policies:
        raise InputError("the run to start from has no front yet: no trial has completed")
    chosen = [policies[index] for index in _spread(len(policies), _MOST)]
    space, groups = problem.space, problem.groups
    found = {}
    for policy in chosen:
        alike = replace(
            Policy.from_keep_ratios(_ratios(policy, source, groups)),
            layers=_layers(policy, source, groups),
        )
        canonical = groups.canonical(space.decode(space.nearest(alike)))
        found[canonical.sha256] = canonical
    return list(found.values())


def _ratios(policy: Policy, source: GroupTable, target: GroupTable) -> Mapping[str, float]:
    """Return the keep_ratio of every prunable group of `target`."""
    theirs = {group.name: policy.keep_ratio(group.name) for group in source.prunable}
    names = [group.name for group in target.prunable]
    if set(names) <= set(theirs):
        return {name: theirs[name] for name in names}
    values = list(theirs.values())
    depths = [(index + 0.5) / len(values) for index in range(len(values))]
    places = [(index + 0.5) / len(names) for index in range(len(names))]
    return dict(zip(names, np.interp(places, depths, values).tolist(), strict=True))


def _layers(policy: Policy, source: GroupTable, target: GroupTable) -> dict[str, LayerDecision]:
    """Return what is decided about every layer of `target`, where it differs from doing nothing."""
    theirs = [each.name for each in source.layers if each.reason is None]
    own = [each.name for each in target.layers if each.reason is None]
    if not policy.layers:
        return {}
    if set(own) <= set(theirs):
        return {name: policy.layer(name) for name in own}
    # Ranks mean nothing in another network's widths.
    places = [int((index + 0.5) / len(own) * len(theirs)) for index in range(len(own))]
    return {
        name: replace(policy.layer(theirs[place]), rank=None)
        for name, place in zip(own, places, strict=True)
    }


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices below `count`, evenly spread, both ends among them."""
    places = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return sorted(set(places))
