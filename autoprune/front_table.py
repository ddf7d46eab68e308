"""A front in numbers, at one moment: who is on it, its hypervolume, and picks from it.

table.members                         # numbers of trials, best by the first objective first
table.hypervolume                     # share of the reference box, in [0, 1]
table.knee()                          # the number of the trial with the best trade-off
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from autoprune.contracts.objective import Goal
from autoprune.dominance import standing
from autoprune.errors import InputError, suggestion

_NORMAL = NormalDist()
# Half a 95 % interval in standard errors.
_HALF = _NORMAL.inv_cdf(0.975)
_EXACT_GOALS = 5
_DIRECTIONS = 2**16


@dataclass(frozen=True, eq=False)
class FrontTable:
    """The non-dominated trials under `goals`, of which the members stand out.

    `numbers` (n,) int64 are those of the trials, `losses` (n, goals) what is made small, and
    `misses` (n,) bool says which of them miss soft constraints. With a `significance` (as
    `Front` explains it) `errors` (n, goals) are the standard errors of the losses. Without,
    all non-dominated trials are members. Arrays are not copied, and must not change.
    """

    goals: Sequence[Goal]
    numbers: np.ndarray
    losses: np.ndarray
    misses: np.ndarray
    significance: float | None = None
    errors: np.ndarray | None = None

    @cached_property
    def members(self) -> np.ndarray:
        """Numbers of the members (k,), best by the first objective first."""
        places = self._places
        order = np.lexsort((self.numbers[places], *self.losses[places].T[::-1]))
        ordered: np.ndarray = self.numbers[places[order]]
        return ordered

    @cached_property
    def hypervolume(self) -> float | None:
        """The share of the box between ideal and reference point that is dominated.

        As `Front.hypervolume` explains it; None while there is no box.
        """
        references = [goal.reference for goal in self.goals]
        if any(reference is None or reference <= 0 for reference in references):
            return None  # no box: not measured yet, or the dense network is already ideal
        return self._dominated_share(np.array(references, dtype=float))

    def knee(self) -> int:
        """Return the member farthest below the plane through the extremes."""
        return self.weighted({goal.name: 1.0 for goal in self.goals})

    def best(self, metric: str) -> int:
        """Return the member that is best in one objective; ties by the others, in order."""
        places = self._choices()
        losses = self.losses[places]
        keys = (self.numbers[places], *losses.T[::-1], losses[:, self._index(metric)])
        return int(self.numbers[places[np.lexsort(keys)[0]]])

    def weighted(self, weights: Mapping[str, float]) -> int:
        """Return the member with the smallest weighted sum of scaled objectives.

        Each objective is scaled to [0, 1] over the front; unnamed ones weigh nothing. Of
        equal sums the lowest number wins.
        """
        places = self._choices()
        vector = np.zeros(len(self.goals))
        for metric, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise InputError(f"the weight of {metric!r} must be 0 or more, given: {weight}")
            vector[self._index(metric)] = weight
        if not vector.any():
            raise InputError("at least one weight must be above 0")
        losses = self.losses[places]
        low, high = losses.min(axis=0), losses.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        sums = ((losses - low) / span) @ vector
        return int(self.numbers[places[np.lexsort((self.numbers[places], sums))[0]]])

    @cached_property
    def _places(self) -> np.ndarray:
        """Places of the members in `numbers`."""
        if self.significance is None:
            return np.arange(len(self.numbers))
        assert self.errors is not None, "significance needs standard errors"
        z = _NORMAL.inv_cdf(1.0 - self.significance / 2.0)
        return standing(self.losses, z * self.errors, self.numbers)

    def _choices(self) -> np.ndarray:
        """Return the places of the members to pick from; raises `InputError` without any."""
        places = self._places
        if not len(places):
            raise InputError("the front is empty: no feasible trial has completed yet")
        kept = places[~self.misses[places]]
        return kept if len(kept) else places

    def _dominated_share(self, references: np.ndarray) -> float:
        scaled = self.losses / np.abs(references)
        # A maximised objective is worth its excess over the reference, at most one of it.
        scaled = np.where(signs(self.goals) < 0, scaled + 2.0, scaled)
        inside = np.clip(scaled[(scaled < 1.0).all(axis=1)], 0.0, 1.0)
        if len(inside) == 0:
            return 0.0
        import moocore  # slow to import, and needed by nobody who only reads the front

        corner = np.ones(len(self.goals))
        if len(corner) <= _EXACT_GOALS:
            return float(moocore.hypervolume(inside, ref=corner))
        return min(1.0, float(moocore.hv_approx(inside, ref=corner, nsamples=_DIRECTIONS)))

    def _index(self, metric: str) -> int:
        names = [goal.name for goal in self.goals]
        if metric not in names:
            raise InputError(f"{metric!r} is no objective of this job; {suggestion(metric, names)}")
        return names.index(metric)


def signs(goals: Sequence[Goal]) -> np.ndarray:
    """Return what values are multiplied with to become losses: (goals,) of 1.0 and -1.0."""
    return np.array([goal.loss(1.0) for goal in goals])


def standard_errors(intervals: np.ndarray) -> np.ndarray:
    """Return standard errors (…) of 95 % intervals (…, 2); 0.0 where either end is NaN."""
    errors: np.ndarray = (intervals[..., 1] - intervals[..., 0]) / (2.0 * _HALF)
    return np.where(np.isnan(errors), 0.0, errors)
