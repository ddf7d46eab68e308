"""Warm starts: the front of an earlier run, carried over to the groups of this one.

Only policies are carried over, never values: the earlier run may have judged another
model, other data or other images, so what it found is tried again here, first of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import InputError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy

# Enough to show where the front of the earlier run lies, few beside a budget of a hundred.
_MOST = 20


def carried_over(
    policies: Sequence[Policy], source: GroupTable, problem: SearchProblem
) -> list[Policy]:
    """Return canonical policies of `problem`'s space that resemble those of another run.

    Groups of the same name keep the same share. Where the networks differ, as those of one
    family do, a group keeps the share that is kept at its relative depth. At most 20
    policies come back, spread over the given ones, which are taken to be in order.

    Raises `InputError` where there is nothing to carry over.
    """
    if not policies:
        raise InputError("the run to start from has no front yet: no trial has completed")
    chosen = [policies[index] for index in _spread(len(policies), _MOST)]
    space, groups = problem.space, problem.groups
    found = {}
    for policy in chosen:
        ratios = _ratios(policy, source, groups)
        nearest = space.decode(space.nearest(Policy.from_keep_ratios(ratios)))
        canonical = groups.canonical(nearest)
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


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices below `count`, evenly spread, both ends among them."""
    places = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return sorted(set(places))
