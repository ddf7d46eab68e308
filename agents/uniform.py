"""Uniform pruning: the same share kept everywhere, swept over the reachable cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.trial import Trial

from ._genome import Genome

# Positions tried along the sweep; neighbours then differ by at most one unit in groups of
# up to so many units.
_STEPS = 512


class Uniform(Searcher):
    """Sets every ordered parameter to the same relative level; choices keep their first option.

    The levels are those whose macs come nearest to an even division of the range between
    the lowest and the highest reachable. They are asked farthest first (Gonzalez,
    "Clustering to minimize the maximum intercluster distance", 1985), so that any number
    of them covers the range nearly as well as that many could. Where a space decides about
    several kinds of things, units and bits, all combinations of a few levels of each are
    swept, farthest first as well. Deterministic: the seed
    and what is told change nothing.

    Args:
        points: How many levels the sweep has; fewer where levels give the same network.

    Raises:
        PluginError: Fewer than one point.
    """

    def __init__(self, problem: SearchProblem, *, seed: int = 0, points: int = 20) -> None:
        super().__init__(problem, seed=seed)
        if points < 1:
            raise PluginError(f"points must be at least 1, given: {points!r}")
        self._sweep = _sweep(problem, points)
        self._asked = 0

    def ask(self, count: int) -> Sequence[Policy]:
        """Return the next policies of the sweep; none once it is over."""
        policies = self._sweep[self._asked : self._asked + count]
        self._asked += len(policies)
        return policies

    def tell(self, trial: Trial) -> None:
        """Ignore the trial: the sweep is fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Return how many policies have been asked."""
        return {"asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self._asked = int(state["asked"])


def _sweep(problem: SearchProblem, points: int) -> list[Policy]:
    """Return at most `points` different policies in the order of asking."""
    genome = Genome(problem.space)
    steps = _STEPS if genome.kind_count == 1 else math.ceil(points ** (1 / genome.kind_count))
    found: dict[str, tuple[Policy, int, np.ndarray]] = {}
    for vector, levels in zip(*genome.even(np.linspace(1.0, 0.0, steps + 1)), strict=True):
        policy = problem.space.decode(genome.values(vector))
        canonical = problem.groups.canonical(policy)
        macs = problem.costs.costs(canonical).macs
        found.setdefault(canonical.sha256, (policy, macs, levels))
    policies = [policy for policy, _, _ in found.values()]
    if genome.kind_count > 1:
        places = np.array([levels for _, _, levels in found.values()])
        return [policies[index] for index in _farthest_first(places)[:points]]
    macs_of = np.array([macs for _, macs, _ in found.values()], dtype=np.float64)
    targets = np.linspace(macs_of.max(), macs_of.min(), points)
    nearest = np.abs(macs_of[:, None] - targets).argmin(axis=0)
    chosen = list(dict.fromkeys(nearest.tolist()))
    return [policies[chosen[index]] for index in _farthest_first(macs_of[chosen, None])]


def _farthest_first(places: np.ndarray) -> list[int]:
    """Order points, shape (n, dimensions), each as far as possible from those before it."""
    order = [0]
    distance = np.abs(places - places[0]).max(axis=1)
    while len(order) < len(places):
        distance[order] = -1.0
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(places - places[order[-1]]).max(axis=1))
    return order
