"""Searchers asked and told in a loop of their own, on problems whose results are made up."""

from __future__ import annotations

from collections.abc import Callable

import moocore
import numpy as np

from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PolicyError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import Float, SearchSpace, Values
from autoprune.testing.problem import measure
from autoprune.trial import Trial, TrialState


class RatioSpace(SearchSpace):
    """A real keep_ratio per group."""

    def __init__(self, groups: GroupTable) -> None:
        self._groups = groups
        self.parameters = tuple(Float(group.name, 0.05, 1.0) for group in groups.prunable)

    def decode(self, values: Values) -> Policy:
        return Policy.from_keep_ratios({name: float(value) for name, value in values.items()})

    def encode(self, policy: Policy) -> Values:
        self._groups.kept_units(policy)
        if policy.recipe.criterion != "l1":
            raise PolicyError("the space ranks by l1")
        return {group.name: policy.keep_ratio(group.name) for group in self._groups.prunable}

    def nearest(self, policy: Policy) -> Values:
        return {
            group.name: max(0.05, policy.keep_ratio(group.name)) for group in self._groups.prunable
        }


def completed(problem: SearchProblem, policy: Policy, number: int = 0) -> Trial:
    """Return the trial of a policy, with what it measures."""
    evaluation = measure(problem, policy)
    return Trial(number, policy, "x", 0, TrialState.COMPLETED, evaluation=evaluation)


def search(
    searcher: Searcher,
    problem: SearchProblem,
    trials: int,
    end: Callable[[SearchProblem, Policy], Trial] = completed,
) -> list[Policy]:
    """Run with three trials under way, as a pool of workers would."""
    under_way: list[Policy] = []
    finished: list[Policy] = []
    while len(finished) < trials:
        under_way += searcher.ask(4 - len(under_way))
        finished.append(under_way.pop(0))
        searcher.tell(end(problem, finished[-1]))
    return finished


def share(problem: SearchProblem, policy: Policy) -> float:
    """Return the macs of a policy as a share of the dense ones."""
    return problem.costs.costs(policy).macs / problem.costs.costs(Policy()).macs


def hypervolume(problem: SearchProblem, policies: list[Policy]) -> float:
    """Return what policies dominate of the box of error and share of macs."""
    losses = [1.0 - measure(problem, policy).value("accuracy") for policy in policies]
    points = np.column_stack([losses, [share(problem, policy) for policy in policies]])
    return float(moocore.hypervolume(points, ref=[1.0, 1.0]))
