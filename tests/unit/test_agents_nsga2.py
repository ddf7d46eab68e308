"""NSGA-II: it beats random search, obeys constraints, and takes results from anyone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agents._genome import Genome
from agents._pymoo import LevelSwitch
from agents.nsga2 import NSGA2
from agents.random_search import RandomSearch
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Trial, TrialState
from search_spaces.layerwise import Layerwise
from tests.asking import RatioSpace, completed, hypervolume, search


class TestNSGA2OnRealNumbers(SearcherContract):
    def problem(self) -> SearchProblem:
        problem = small_problem(units=(64, 64, 64))
        return replace(problem, space=RatioSpace(problem.groups))

    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return NSGA2(problem, seed=seed, population=10)


def test_it_beats_random_search_by_a_clear_margin() -> None:
    problem = small_problem(units=(32,) * 10)
    volumes = {
        searcher: [
            hypervolume(problem, search(searcher(problem, seed=seed), problem, 150))
            for seed in range(4)
        ]
        for searcher in (NSGA2, RandomSearch)
    }
    assert min(volumes[NSGA2]) > max(volumes[RandomSearch]) + 0.02
    assert np.mean(volumes[NSGA2]) > np.mean(volumes[RandomSearch]) + 0.05


def test_evolution_improves_on_its_own_design() -> None:
    problem = small_problem(units=(32,) * 10)
    for seed in range(2):
        policies = search(NSGA2(problem, seed=seed), problem, 150)
        blind = search(NSGA2(problem, seed=seed, population=150), problem, 150)
        assert hypervolume(problem, policies) > hypervolume(problem, blind) + 0.01


def test_the_design_begins_with_both_ends_and_spans_the_costs() -> None:
    problem = small_problem(units=(32,) * 20)
    asked = NSGA2(problem, population=40).ask(40)
    kept = [problem.groups.kept_units(policy) for policy in asked]
    assert set(kept[0].values()) == {1}
    assert set(kept[1].values()) == {32}
    dense = problem.costs.costs(Policy()).macs
    shares = np.sort([problem.costs.costs(policy).macs / dense for policy in asked])
    # Of independent uniform draws over 20 groups, nine tenths lie between 0.19 and 0.36.
    assert shares[4] < 0.1
    assert shares[-5] > 0.7
    assert {policy.recipe.criterion for policy in asked} == {"l1", "l2"}


def test_no_policy_is_asked_twice_and_a_small_space_is_searched_to_its_end() -> None:
    problem = small_problem(units=(6, 5))
    asked = [policy.sha256 for policy in search(NSGA2(problem, population=8), problem, 60)]
    assert len(set(asked)) == 60


def test_options_without_order_are_learned() -> None:
    problem = small_problem(units=(32,) * 8)
    policies = search(NSGA2(problem, seed=0), problem, 200)
    late = [policy.recipe.criterion for policy in policies[-60:]]
    # l2 loses accuracy at the same cost; mutation keeps trying it.
    assert 0.75 < late.count("l1") / 60 < 1.0


def refuse_above(share: float) -> Callable[[SearchProblem, Policy], Trial]:
    """Return an end that refuses costly policies before their accuracy is known."""

    def end(problem: SearchProblem, policy: Policy) -> Trial:
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        dense = problem.costs.costs(Policy()).macs
        excess = problem.costs.costs(policy).macs / (share * dense) - 1.0
        if excess <= 0.0:
            return trial
        known = {"macs": trial.evaluation.measurements["macs"]}
        cheap = Evaluation(known, violations={f"macs <= {share} * dense": excess})
        return replace(trial, state=TrialState.INFEASIBLE, evaluation=cheap)

    return end


def test_refused_trials_show_the_way_into_the_feasible_region() -> None:
    # Random counts satisfy this once in thousands of draws.
    problem = small_problem(units=(32,) * 12)
    end = refuse_above(0.05)
    for seed in range(3):
        policies = search(NSGA2(problem, seed=seed, population=20), problem, 150, end)
        ends = [end(problem, policy).state for policy in policies[-50:]]
        assert ends.count(TrialState.COMPLETED) > 30


def test_feasible_trials_displace_infeasible_ones() -> None:
    problem = small_problem(units=(8, 8))
    searcher = NSGA2(problem, population=4)
    policies = RandomSearch(problem, seed=0).ask(12)
    for number, policy in enumerate(policies):
        trial = completed(problem, policy, number)
        assert trial.evaluation is not None
        if number < 8:
            broken = replace(trial.evaluation, violations={"accuracy >= 2": 1.0 + number})
            trial = replace(trial, evaluation=broken)
        searcher.tell(trial)
        if number == 7:
            assert searcher.state_dict()["population"]["G"].ravel().tolist() == [1, 2, 3, 4]
    assert not searcher.state_dict()["population"]["G"].any()


def test_results_of_others_are_bred_from() -> None:
    problem = small_problem(units=(32,) * 8, criteria=("l1",))
    searcher = NSGA2(problem, seed=0, population=4)
    searcher.ask(4)
    names = [group.name for group in problem.groups.prunable]
    for index in range(4):
        foreign = dict.fromkeys(names, 0.75) | {names[index]: 0.5}
        searcher.tell(completed(problem, Policy.from_keep_ratios(foreign)))
    for policy in searcher.ask(20):
        unlike = [name for name in names if policy.keep_ratio(name) not in (0.5, 0.75)]
        assert len(unlike) <= 4


def test_the_first_result_of_a_policy_counts_and_fruitless_trials_do_not() -> None:
    problem = small_problem(units=(8, 8))
    searcher = NSGA2(problem, population=4)
    first, second, third = searcher.ask(3)
    searcher.tell(replace(completed(problem, first), state=TrialState.FAILED, evaluation=None))
    searcher.tell(completed(problem, second))
    before = searcher.state_dict()
    promoted = completed(problem, second)
    assert promoted.evaluation is not None
    better = replace(promoted.evaluation, measurements=measure(problem, Policy()).measurements)
    searcher.tell(replace(promoted, rung=1, evaluation=better))
    nan = dict(better.measurements) | {"macs": replace(better.measurements["macs"], value=np.nan)}
    searcher.tell(replace(completed(problem, third), evaluation=replace(better, measurements=nan)))
    after = searcher.state_dict()["population"]
    assert len(after["F"]) == 1
    np.testing.assert_array_equal(after["F"], before["population"]["F"])
    # Accuracy is maximised, so its loss is negative.
    assert after["F"][0, 0] == -measure(problem, second).value("accuracy")


@pytest.mark.parametrize("options", [{"population": 3}, {"crossover": 1.5}, {"mutation": -0.1}])
def test_unusable_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PluginError, match="must be"):
        NSGA2(small_problem(), **options)  # type: ignore[arg-type]


# -- the level switch -----------------------------------------------------------------------


def macs(problem: SearchProblem, vector: np.ndarray) -> float:
    policy = problem.space.decode(Genome(problem.space).values(vector))
    return problem.costs.costs(policy).macs


def worth_of_a_level(problem: SearchProblem, vector: np.ndarray, column: int) -> float:
    """Return the larger of what one level up and one level down change."""
    near = np.array([vector, vector])
    near[:, column] += (1.0, -1.0)
    there = macs(problem, vector)
    return max(abs(macs(problem, each) - there) for each in Genome(problem.space).snap(near))


def spaces() -> dict[str, SearchProblem]:
    problem = small_problem(units=(32, 64, 48, 16))
    coarse = Layerwise(problem.groups, round_to=8)
    return {"counts and a choice": problem, "round levels": replace(problem, space=coarse)}


@pytest.mark.parametrize("problem", spaces().values(), ids=spaces())
def test_a_level_switch_keeps_the_macs_and_changes_the_policy(problem: SearchProblem) -> None:
    genome = Genome(problem.space)
    switch, rng = LevelSwitch(problem, genome), np.random.default_rng(0)
    both = 0
    for parent in genome.from_unit(rng.random((200, len(genome.low)))):
        before = parent.copy()
        child = switch(parent, rng)
        np.testing.assert_array_equal(parent, before)
        if child is None:
            continue
        np.testing.assert_array_equal(child, genome.snap(child))
        changed = np.flatnonzero(child != parent)
        assert 1 <= len(changed) <= 2
        assert genome.ordered[changed].all()
        # Where one parameter changed, the level of another was too coarse to answer.
        answering = changed if len(changed) == 2 else np.flatnonzero(genome.ordered)
        slack = max(worth_of_a_level(problem, child, column) for column in answering)
        assert abs(macs(problem, child) - macs(problem, parent)) <= slack
        if len(changed) == 2:
            both += 1
            assert np.prod(np.sign(child - parent)[changed]) < 0
    assert both > 120


def test_a_level_switch_finds_the_nearest_level_of_all() -> None:
    problem = small_problem(units=(32, 64), criteria=("l1",))
    switch, rng = LevelSwitch(problem, Genome(problem.space)), np.random.default_rng(1)
    parent = np.array([16.0, 32.0, 0.0])
    for _ in range(20):
        child = switch(parent, rng)
        assert child is not None
        nearest = []
        for column, units in enumerate((32, 64)):  # either may be the one that answers
            others = np.tile(child, (units, 1))
            others[:, column] = np.arange(1, units + 1)
            nearest.append(min(abs(macs(problem, each) - macs(problem, parent)) for each in others))
        assert abs(macs(problem, child) - macs(problem, parent)) in nearest


def test_a_level_switch_of_real_numbers_meets_the_macs() -> None:
    problem = small_problem(units=(640, 640, 640))
    problem = replace(problem, space=RatioSpace(problem.groups))
    switch, rng = LevelSwitch(problem, Genome(problem.space)), np.random.default_rng(0)
    parent = np.array([0.5, 0.4, 0.6])
    children = [child for _ in range(20) if (child := switch(parent, rng)) is not None]
    assert len(children) > 12
    for child in children:
        assert macs(problem, child) == pytest.approx(macs(problem, parent), rel=0.005)
        assert np.sum(child != parent) == 2


def test_where_nothing_can_answer_there_is_no_switch_and_yet_a_child() -> None:
    problem = small_problem(units=(16, 16), criteria=("l1",))
    genome = Genome(problem.space)
    switch, rng = LevelSwitch(problem, genome), np.random.default_rng(0)
    for corner in (genome.low, genome.high):
        assert all(switch(corner, rng) is None for _ in range(20))
    narrow = small_problem(units=(64,), criteria=("l1",))
    assert LevelSwitch(narrow, Genome(narrow.space))(np.array([9.0, 0.0]), rng) is None
    asked = search(NSGA2(narrow, population=4, switch=1.0), narrow, 60)
    assert len({policy.sha256 for policy in asked}) == 60


def test_the_share_of_switches_is_that_of_the_option() -> None:
    problem = small_problem(units=(256,) * 8, criteria=("l1",))
    names = [group.name for group in problem.groups.prunable]
    shares = {}
    for switch in (0.0, 0.5, 1.0):
        searcher = NSGA2(problem, seed=0, population=4, switch=switch)
        searcher.ask(4)
        parents = [Policy.from_keep_ratios(dict.fromkeys(names, k / 16)) for k in (4, 6, 9, 12)]
        for parent in parents:
            searcher.tell(completed(problem, parent))
        budgets = np.array([problem.costs.costs(policy).macs for policy in parents])
        children = [problem.costs.costs(policy).macs for policy in searcher.ask(100)]
        gaps = [np.abs(budgets / child - 1.0).min() for child in children]
        shares[switch] = np.mean(np.array(gaps) < 0.005)
    assert shares[0.0] < 0.25
    assert 0.35 < shares[0.5] < 0.75
    assert shares[1.0] > 0.95
