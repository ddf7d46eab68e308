"""What eagle_eye, legr, bisection and knapsack share: budgets, targets, fronts, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents._budgets import Budgeted
from agents.bisection import Bisection
from agents.eagle_eye import EagleEye
from agents.knapsack import Knapsack
from agents.legr import LeGR
from agents.random_search import RandomSearch
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError, PolicyError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import Value, Values
from autoprune.testing import SearcherContract
from autoprune.testing.problem import CountSpace, small_problem
from autoprune.trial import Trial, TrialState
from tests.asking import RatioSpace, completed, hypervolume, search

ALL = (EagleEye, LeGR, Bisection, Knapsack)
FOLLOWERS = (LeGR, Bisection, Knapsack)


class TestEagleEye(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return EagleEye(problem, seed=seed)


class TestLeGR(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return LeGR(problem, seed=seed, population=8, sample=4)


class TestBisection(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Bisection(problem, seed=seed)


class TestKnapsack(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Knapsack(problem, seed=seed)


def shares(problem: SearchProblem, policies: list[Policy]) -> np.ndarray:
    dense = problem.costs.costs(Policy()).macs
    return np.array([problem.costs.costs(policy).macs / dense for policy in policies])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("searcher", "margin"),
    [(EagleEye, 0.015), (LeGR, 0.03), (Bisection, 0.05), (Knapsack, 0.05)],
)
def test_each_beats_random_search_by_a_clear_margin(
    searcher: type[Budgeted], margin: float
) -> None:
    problem = small_problem(units=(32,) * 10, criteria=("l1",))
    gains = [
        hypervolume(problem, search(searcher(problem, seed=seed, target=None), problem, 100))
        - hypervolume(problem, search(RandomSearch(problem, seed=seed), problem, 100))
        for seed in range(3)
    ]
    assert min(gains) > 0.0
    assert np.mean(gains) > margin


@pytest.mark.parametrize("searcher", ALL)
def test_one_run_covers_the_whole_range_of_costs(searcher: type[Budgeted]) -> None:
    problem = small_problem(units=(32,) * 10)
    policies = search(searcher(problem, seed=0, target=None), problem, 80)
    found = np.sort(shares(problem, policies))
    inner = np.concatenate([[0.0], found[found < 1.0], [1.0]])
    assert np.diff(inner).max() < 0.1


@pytest.mark.parametrize("searcher", FOLLOWERS)
def test_a_target_is_never_exceeded_and_nearly_met(searcher: type[Budgeted]) -> None:
    problem = small_problem(units=(32,) * 6)
    policies = search(searcher(problem, seed=0, target=0.3), problem, 60)
    found = shares(problem, policies)
    found = found[found < 0.6]  # without the probes of single groups
    assert len(found) >= 45
    assert found.max() <= 0.3
    assert np.median(found) > 0.28


@pytest.mark.parametrize("searcher", ALL)
def test_a_target_without_anything_new_ends_the_search(searcher: type[Budgeted]) -> None:
    problem = small_problem(units=(20, 15), criteria=("l1",))
    limited = searcher(problem, seed=0, target=0.4)
    asked: list[Policy] = []
    while len(asked) < 300 and (policies := limited.ask(4)):
        asked += policies
    assert 0 < len({policy.sha256 for policy in asked}) == len(asked) < 150


@pytest.mark.parametrize("searcher", ALL)
def test_budgets_whose_neighbours_break_a_constraint_are_passed_over(
    searcher: type[Budgeted],
) -> None:
    problem = small_problem(units=(32,) * 8)

    def refuse(problem: SearchProblem, policy: Policy) -> Trial:
        trial = completed(problem, policy)
        excess = float(shares(problem, [policy])[0]) / 0.3 - 1.0
        assert trial.evaluation is not None
        if excess <= 0.0:
            return trial
        known = {"macs": trial.evaluation.measurements["macs"]}
        cheap = replace(trial.evaluation, measurements=known, violations={"macs": excess})
        return replace(trial, state=TrialState.INFEASIBLE, evaluation=cheap)

    policies = search(searcher(problem, seed=0, target=None), problem, 80, refuse)
    assert (shares(problem, policies[-40:]) <= 0.3).mean() > 0.7


@pytest.mark.parametrize("searcher", ALL)
def test_real_numbers_are_searched_too(searcher: type[Budgeted]) -> None:
    problem = small_problem(units=(64, 64, 64))
    problem = replace(problem, space=RatioSpace(problem.groups))
    policies = search(searcher(problem, seed=0, target=None), problem, 40)
    assert len({policy.sha256 for policy in policies}) == 40
    assert np.ptp(shares(problem, policies)) > 0.6


class Twins(CountSpace):
    """One count for the first two groups, one for the third."""

    def __init__(self, groups: GroupTable) -> None:
        super().__init__(groups, ("l1",))
        self._names = [group.name for group in groups.prunable]
        self.parameters = (*self.parameters[1:3], self.parameters[3])

    def decode(self, values: Values) -> Policy:
        return super().decode({**values, self._names[0]: values[self._names[1]]})

    def encode(self, policy: Policy) -> Values:
        values: dict[str, Value] = dict(super().encode(policy))
        if values.pop(self._names[0]) != values[self._names[1]]:
            raise PolicyError("twins differ")
        return values


@pytest.mark.parametrize("searcher", ALL)
def test_parameters_of_several_groups_are_searched_too(searcher: type[Budgeted]) -> None:
    problem = small_problem(units=(16, 16, 24))
    problem = replace(problem, space=Twins(problem.groups))
    policies = search(searcher(problem, seed=0, target=None), problem, 40)
    assert all(policy.keep_ratio("conv1") == policy.keep_ratio("conv2") for policy in policies)
    assert np.ptp(shares(problem, policies)) > 0.8


def test_dominated_results_leave_the_front_and_budgets_follow_its_steep_part() -> None:
    problem = small_problem(units=(16, 16), criteria=("l1",))
    searcher = Knapsack(problem)
    for rise, kept in ((0.5, 4), (0.1, 8), (0.2, 12), (0.45, 4)):
        policy = Policy.from_keep_ratios({"conv1": kept / 16, "conv2": kept / 16})
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        accuracy = replace(trial.evaluation.measurements["accuracy"], value=1.0 - rise)
        values = {**trial.evaluation.measurements, "accuracy": accuracy}
        changed = replace(trial.evaluation, measurements=values)
        searcher.tell(replace(trial, evaluation=changed))
    front = searcher.state_dict()["front"]
    # An accuracy of 0.5 is the worst of interest, at a rise of 1. With 12 of 16 units more is
    # lost than with 8; the second result of the same policy is not read.
    np.testing.assert_allclose(front[:, 1], [1.0, 0.2])
    low, high = front[:, 0]
    budgets = np.array([searcher._spread(place) for place in np.linspace(0.0, 0.999, 200)])
    within = ((budgets > low) & (budgets < high)).mean()
    assert within > 1.5 * (high - low)


@pytest.mark.parametrize("searcher", ALL)
def test_unusable_targets_are_refused(searcher: type[Budgeted]) -> None:
    with pytest.raises(PluginError, match=r"in \(0, 1\]"):
        searcher(small_problem(), seed=0, target=1.5)
    with pytest.raises(PluginError, match="out of reach: the smallest network"):
        searcher(small_problem(), seed=0, target=0.001)


class Criteria(CountSpace):
    """Nothing to choose but a criterion."""

    def __init__(self, groups: GroupTable) -> None:
        super().__init__(groups)
        self._whole = {group.name: group.units for group in groups.prunable}
        self.parameters = self.parameters[-1:]

    def decode(self, values: Values) -> Policy:
        return super().decode({**self._whole, **values})


@pytest.mark.parametrize("searcher", FOLLOWERS)
def test_problems_that_cannot_be_followed_are_refused(searcher: type[Budgeted]) -> None:
    problem = small_problem()
    only_costs = replace(problem, goals=(Goal("macs", "1", "min"), Goal("params", "1", "min")))
    with pytest.raises(PluginError, match="all goals are costs: macs, params"):
        searcher(only_costs, seed=0, target=None)
    with pytest.raises(PluginError, match="only unordered choices"):
        searcher(replace(problem, space=Criteria(problem.groups)), seed=0, target=None)


@pytest.mark.parametrize("searcher", ALL)
def test_options_are_checked_before_references_are_known(searcher: type[Budgeted]) -> None:
    problem = small_problem()
    goals = tuple(replace(goal, reference=None) for goal in problem.goals)
    unknown = replace(problem, goals=goals, dense=None, scores={})
    assert len(searcher(unknown, seed=0, target=0.5).ask(1)) == 1
