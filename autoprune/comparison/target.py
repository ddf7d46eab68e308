"""The policy that all methods share: every group keeps the same share of its units.

targets_of((0.5,), "macs", found)      # the largest network of that kind with half of the macs

Where single weights leave instead, it is that of `autoprune.comparison.weight_target`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from autoprune.comparison.request import Cost
from autoprune.errors import InputError
from autoprune.fidelity import policy_at
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.preflight import Preflight


@dataclass(frozen=True, slots=True)
class Target:
    """A share, and the canonical policy that keeps it, whatever the method.

    `stays` says in words what each group or kernel keeps. `cost` is what the policy costs of
    `metric`, and `dense` what the dense network does.
    """

    share: float
    keep_ratio: float
    stays: str
    policy: Policy
    metric: Cost
    cost: int
    dense: int

    def to_json(self, groups: GroupTable) -> dict[str, Any]:
        """Return a JSON object, with the kept and all units of groups, and decisions on layers."""
        kept = groups.kept_units(self.policy)
        return {
            "share": self.share,
            "keep_ratio": self.keep_ratio,
            "stays": self.stays,
            "metric": self.metric,
            "cost": self.cost,
            "of_dense": self.cost / self.dense,
            "units": {name: [each, groups[name].units] for name, each in kept.items()},
            "layers": {name: each.to_json() for name, each in self.policy.layers.items()},
        }


def targets_of(shares: Sequence[float], of: Cost, found: Preflight) -> tuple[Target, ...]:
    """Return a target for every share: the largest `keep_ratio` that costs no more.

    Counts are those of the job's space that come nearest to the ratio, so groups that it leaves
    out stay whole, and bounds and multiples are kept; where it decides about more than units,
    that stands where `SearchSpace.nearest` puts it, and layers have the bits that the rung gives
    them. Raises `InputError` for shares that cannot be reached, with the lowest that can, and for
    those that bits alone reach.
    """
    groups, costs = found.preparation.graph.groups, found.preparation.graph.costs

    def policy(ratio: float) -> Policy:
        same = Policy.from_keep_ratios({each.name: ratio for each in groups.prunable})
        nearest = groups.canonical(found.space.decode(found.space.nearest(same)))
        return policy_at(found.job, groups, nearest, 0)

    def cost(ratio: float) -> int:
        return int(getattr(costs.costs(policy(ratio)), of))

    dense = int(getattr(found.dense, of))
    ratios = _ratios(groups)
    _require_reachable(shares, cost(ratios[0]), dense, of)
    chosen = (_largest(ratios, cost, _bound(share, dense)) for share in shares)
    targets = tuple(
        Target(share, ratio, _stays(ratio), policy(ratio), of, cost(ratio), dense)
        for share, ratio in zip(shares, chosen, strict=True)
    )
    _require_loss(targets, of)
    return targets


def _stays(ratio: float) -> str:
    return f"every group keeps about {ratio:.3f}"


def _ratios(groups: GroupTable) -> list[float]:
    """Return one keep_ratio, ascending, for every set of counts that a common one can give.

    Nearest counts change only where a ratio lies halfway between two whole numbers of units;
    each ratio stands between two such places, where no rounding of floats can matter.
    """
    sizes = {each.units for each in groups.prunable}
    halves = [np.arange(1, 2 * units) / (2 * units) for units in sizes]
    places = np.unique(np.concatenate([np.array([0.0, 1.0]), *halves]))
    ratios: list[float] = ((places[:-1] + places[1:]) / 2).tolist()
    return [*ratios, 1.0]


def _largest(ratios: Sequence[float], cost: Callable[[float], int], bound: int) -> float:
    """Return the largest ratio that costs at most `bound`, by bisection: costs never shrink."""
    return ratios[bisect_right(ratios, bound, key=cost) - 1]


def _bound(share: float, dense: int) -> int:
    """Return the most that may be spent; 0.29 of 100 is 29, where floats say 28.999999999999996."""
    return math.floor(Fraction(repr(share)) * dense)


def _require_reachable(shares: Sequence[float], lowest: int, dense: int, of: Cost) -> None:
    """Raise `InputError` where the lowest cost is above a share."""
    missed = [share for share in shares if lowest > _bound(share, dense)]
    if missed:
        least = math.ceil(10_000 * lowest / dense) / 10_000
        raise InputError(
            f"{', '.join(map(str, sorted(missed)))} of the dense {of} cannot be reached with the "
            f"same keep_ratio in every group of the space: at least {lowest:,} of {dense:,} stay; "
            f"the lowest share that can be is {least}; ask for that or more, lower "
            "space.keep_ratio or space.round_to, or exclude fewer groups"
        )


def _require_loss(targets: Sequence[Target], of: Cost) -> None:
    """Raise `InputError` where no unit leaves: then there is nothing to rank."""
    for each in targets:
        if not each.policy.removes:
            raise InputError(
                f"{each.share} of the dense {of} is reached without removing a unit, by bits or "
                f"ranks: {each.cost:,} of {each.dense:,}; ask for less than "
                f"{each.cost / each.dense:.4f}"
            )
