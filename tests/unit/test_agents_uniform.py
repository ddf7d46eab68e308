"""The uniform sweep: one level for all groups, evenly over the reachable macs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from agents.uniform import Uniform
from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import small_problem
from search_spaces.layerwise import Layerwise


@pytest.fixture
def problem() -> SearchProblem:
    base = small_problem(units=(64, 64, 128, 128))
    space = Layerwise(base.groups, keep_ratio=(0.1, 1.0))
    return SearchProblem(space, base.goals, base.groups, base.costs)


def macs(problem: SearchProblem, policies: list[Policy]) -> np.ndarray:
    return np.array([problem.costs.costs(policy).macs for policy in policies])


def test_groups_keep_the_same_share(problem: SearchProblem) -> None:
    for policy in Uniform(problem).ask(20):
        ratios = [policy.keep_ratio(group.name) for group in problem.groups.prunable]
        # Two neighbouring counts of the narrowest group are 1/64 apart, and 0.1 rounds up.
        assert max(ratios) - min(ratios) < 1.5 / 64


def test_the_sweep_spans_the_range_in_even_steps(problem: SearchProblem) -> None:
    cost = macs(problem, list(Uniform(problem, points=9).ask(100)))
    assert len(cost) == 9
    lowest = problem.space.decode({each.name: 0 for each in problem.space.parameters})
    assert cost.max() == problem.costs.costs(Policy()).macs
    assert cost.min() == problem.costs.costs(lowest).macs
    even = (cost.max() - cost.min()) / 8
    assert np.abs(np.diff(np.sort(cost)) - even).max() < 0.15 * even


def test_every_beginning_of_the_sweep_is_even(problem: SearchProblem) -> None:
    cost = macs(problem, list(Uniform(problem, points=33).ask(33)))
    span = cost.max() - cost.min()
    for count in range(2, 34):
        seen = sorted([cost.min(), *cost[:count], cost.max()])
        widest = max(high - low for low, high in pairwise(seen))
        # Halving can do no better than twice the ideal gap just before a round is complete.
        assert widest <= 2.0 * span / (count - 1) * 1.1


def test_equal_networks_are_asked_once() -> None:
    problem = small_problem(units=(4, 2), criteria=("l1",))
    asked = [policy.sha256 for policy in Uniform(problem, points=50).ask(50)]
    # Levels 0 to 1 give kept counts (1,1) (2,1) (2,2) (3,2) (4,2), by hand.
    assert len(asked) == len(set(asked)) == 5


def test_choices_stay_at_their_first_option() -> None:
    problem = small_problem(criteria=("l2", "l1"))
    assert {policy.recipe.criterion for policy in Uniform(problem).ask(20)} == {"l2"}


def test_no_points_is_refused(problem: SearchProblem) -> None:
    with pytest.raises(PluginError, match="at least 1"):
        Uniform(problem, points=0)
