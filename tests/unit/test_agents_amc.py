"""AMC: exact clipping, what is stored and learned, one agent for all budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents._costs import CostModel
from agents._genome import Genome
from agents._walk import Walk
from agents.amc import AMC
from agents.random_search import RandomSearch
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import Choice, Float, Integer, SearchSpace, Values
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from tests.asking import completed, hypervolume, search, share


class TestAMC(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return AMC(problem, seed=seed, warmup=8, hidden=8)


class TestAMCWithTarget(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return AMC(problem, seed=seed, target=0.5, warmup=8, hidden=8)


class RatioSpace(SearchSpace):
    """One real keep_ratio for all groups."""

    def __init__(self, groups: GroupTable) -> None:
        self._groups = groups
        self.parameters = (Float("all", 0.1, 1.0),)

    def decode(self, values: Values) -> Policy:
        ratios = {group.name: float(values["all"]) for group in self._groups.prunable}
        return Policy.from_keep_ratios(ratios)

    def encode(self, policy: Policy) -> Values:
        return {"all": policy.keep_ratio(self._groups.prunable[0].name)}

    def nearest(self, policy: Policy) -> Values:
        return self.encode(policy)


class ReversedSpace(SearchSpace):
    """The width of the first group, then an option that keeps or halves the second."""

    def __init__(self, groups: GroupTable) -> None:
        self._names = [group.name for group in groups.prunable]
        self.parameters = (Integer(self._names[0], 1, 4), Choice("second", ("whole", "half")))

    def decode(self, values: Values) -> Policy:
        second = 0.5 if values["second"] == "half" else 1.0
        ratios = {self._names[0]: int(values[self._names[0]]) / 4, self._names[1]: second}
        return Policy.from_keep_ratios(ratios)

    def encode(self, policy: Policy) -> Values:
        first, second = (policy.keep_ratio(name) for name in self._names)
        return {self._names[0]: round(first * 4), "second": "half" if second < 1 else "whole"}

    def nearest(self, policy: Policy) -> Values:
        return self.encode(policy)


def rise_of(problem: SearchProblem, evaluation: Evaluation) -> float:
    assert problem.dense is not None
    assert problem.goals[0].reference is not None
    dense = problem.dense.value("accuracy")
    return (dense - evaluation.value("accuracy")) / (dense - problem.goals[0].reference)


def walk(problem: SearchProblem) -> Walk:
    return Walk(problem, Genome(problem.space), CostModel(problem))


def always(action: float) -> Callable[[int, np.ndarray], np.ndarray]:
    return lambda step, states: np.full(len(states), action)


# -- the walk ---------------------------------------------------------------------------------


def test_actions_are_clipped_to_what_the_budget_allows() -> None:
    # Macs of 4 and 4 units: 576 * (3a + ab + 10b), dense 576 * 68.
    problem = small_problem(units=(4, 4), criteria=("l1",))
    # All of the first leaves 12 + 14b: with b = 2, 40 of 68.
    paths = walk(problem).take(np.array([41.0, 26.0, 25.9]) / 68, always(1.0))
    # 26 are just enough for 4 and 1; of 25.9, 3a + a + 10 leaves a = 3.
    assert paths.vectors[:, :2].tolist() == [[4, 2], [4, 1], [3, 1]]


def test_actions_are_raised_to_what_spends_the_budget() -> None:
    problem = small_problem(units=(4, 4), criteria=("l1",))
    # With b = 4: 7a + 40, so 54 need a = 2, and any less than 47 leave a = 1.
    paths = walk(problem).take(np.array([54.0, 47.0, 1e-3]) / 68, always(0.0))
    assert paths.vectors[:, :2].tolist() == [[2, 4], [1, 4], [1, 1]]


def test_executed_actions_are_recorded() -> None:
    problem = small_problem(units=(4, 4), criteria=("l1",))
    paths = walk(problem).take(np.array([26.0]) / 68, always(1.0))
    # Four levels have the middles 1/8, 3/8, 5/8, 7/8; the single criterion is no step.
    assert paths.actions.tolist() == [[0.875, 0.125]]
    # Budget, removed, removable, previous action: at the first and at the second step.
    np.testing.assert_allclose(paths.progress[0, 0, :4], [26 / 68, 0.0, 54 / 68, 1.0])
    np.testing.assert_allclose(paths.progress[0, 1, :4], [26 / 68, 0.0, 42 / 68, 0.875])


def test_states_show_earlier_actions_and_no_later_ones() -> None:
    problem = small_problem(units=(4, 4), criteria=("l1",))
    taken = walk(problem)
    actions, progress = np.array([[0.3, 0.7]]), np.zeros((1, taken.changing))
    shown = [taken.states(np.array([step]), actions, progress)[0] for step in (0, 1)]
    assert 0.3 not in shown[0]
    assert 0.7 not in shown[0]
    assert 0.3 in shown[1]
    assert 0.7 not in shown[1]
    assert len(shown[0]) == taken.features


def test_a_retraced_vector_is_met_again() -> None:
    problem = small_problem()
    genome, costs, taken = Genome(problem.space), CostModel(problem), walk(problem)
    for vector in genome.from_unit(np.random.default_rng(0).random((20, len(genome.low)))):
        path = taken.retrace(vector, float(costs.share(vector[None])[0]))
        np.testing.assert_array_equal(path.vectors[0], vector)


def test_what_costs_the_same_is_not_clipped() -> None:
    problem = small_problem(units=(4, 4))
    # The budget lies between two networks; both criteria come as near to it.
    for action, criterion in ((0.2, 0), (0.8, 1)):
        paths = walk(problem).take(np.array([0.5]), always(action))
        assert paths.vectors[0, 2] == criterion


def test_options_are_sorted_by_cost() -> None:
    problem = small_problem(units=(4, 4), criteria=("l1",))
    problem = replace(problem, space=ReversedSpace(problem.groups))
    # 576 * (3a + ab + 10b) with b = 2 or 4: of 40, all of the first leaves 2.
    paths = walk(problem).take(np.array([40.0, 68.0]) / 68, always(1.0))
    assert paths.vectors.tolist() == [[4, 1], [4, 0]]


def test_real_numbers_are_walked_in_fine_steps() -> None:
    problem = small_problem(units=(64, 64), criteria=("l1",))
    problem = replace(problem, space=RatioSpace(problem.groups))
    (policy,) = AMC(problem, target=0.5).ask(1)
    assert 0.45 < share(problem, policy) <= 0.5


# -- the search -------------------------------------------------------------------------------


def test_one_budget_is_kept_and_spent() -> None:
    problem = small_problem(units=(16,) * 8)
    shares = [share(problem, each) for each in search(AMC(problem, target=0.4), problem, 60)]
    assert max(shares) <= 0.4
    # The last group has to do without less than one unit's macs, 26 of 2,000.
    assert min(shares) > 0.387


def test_one_budget_is_used_better_than_by_equal_shares() -> None:
    problem = small_problem(units=(16,) * 8)
    uniform = measure(problem, Policy.from_keep_ratios({f"conv{i}": 0.6875 for i in range(1, 9)}))
    assert problem.dense is not None
    target = uniform.value("macs") / problem.dense.value("macs")
    policies = search(AMC(problem, seed=0, target=target), problem, 100)
    best = max(measure(problem, each).value("accuracy") for each in policies)
    assert 1.0 - best < 0.6 * (1.0 - uniform.value("accuracy"))


@pytest.mark.slow
def test_it_beats_random_search_by_a_clear_margin() -> None:
    problem = small_problem(units=(32,) * 8)
    volumes = {
        searcher: [
            hypervolume(problem, search(searcher(problem, seed=seed), problem, 150))
            for seed in range(2)
        ]
        for searcher in (AMC, RandomSearch)
    }
    assert min(volumes[AMC]) > max(volumes[RandomSearch]) + 0.03


def test_the_budget_steers_the_trained_agent() -> None:
    problem = small_problem(units=(16,) * 6)
    searcher = AMC(problem, seed=0, hidden=16)
    search(searcher, problem, 60)
    for budget in (0.1, 0.3, 0.6, 0.9):
        vector = searcher._at(budget, 0)
        assert vector is not None
        assert budget - 0.02 < share(problem, searcher._decode(vector)) <= budget


def test_results_of_others_are_episodes_at_their_own_cost() -> None:
    problem = small_problem(units=(8, 8))
    searcher = AMC(problem, hidden=8)
    policy = Policy.from_keep_ratios({"conv1": 0.5, "conv2": 0.25}, "l2")
    searcher.tell(completed(problem, policy))
    state = searcher.state_dict()
    # Levels of 1 to 8 units, and of two criteria.
    np.testing.assert_allclose(state["actions"], [[3.5 / 8, 1.5 / 8, 0.75]])
    np.testing.assert_allclose(state["progress"][0, :, 0], share(problem, policy))
    rise = rise_of(problem, measure(problem, policy))
    np.testing.assert_allclose(state["ends"], [[share(problem, policy), -rise]])


def test_one_budget_is_learned_only_from_results_near_it() -> None:
    problem = small_problem(units=(32, 32), criteria=("l1",))
    searcher = AMC(problem, target=0.5, hidden=8)
    for ratio, learned in ((0.25, 0), (0.6875, 1), (1.0, 1)):
        policy = Policy.from_keep_ratios({"conv1": ratio, "conv2": ratio})
        searcher.tell(completed(problem, policy))
        assert len(searcher.state_dict()["ends"]) == learned, share(problem, policy)


def test_others_guide_the_walks_once_there_are_enough() -> None:
    problem = small_problem(units=(16,) * 6)
    searcher = AMC(problem, seed=0, warmup=100, hidden=16)
    for policy in RandomSearch(problem, seed=1).ask(100):
        searcher.tell(completed(problem, policy))
    # l2 loses accuracy at the same cost.
    asked = [policy.recipe.criterion for policy in searcher.ask(30)]
    assert asked.count("l1") > 20


def test_broken_constraints_are_punished_and_failures_teach_nothing() -> None:
    problem = small_problem(units=(8, 8))
    searcher = AMC(problem, hidden=8)
    failed, refused, broken = searcher.ask(3)
    searcher.tell(replace(completed(problem, failed), state=TrialState.FAILED, evaluation=None))
    assert not len(searcher.state_dict()["ends"])
    known = Evaluation({"macs": Measurement(1.0)}, violations={"macs <= 1": 0.25})
    searcher.tell(
        replace(completed(problem, refused), state=TrialState.INFEASIBLE, evaluation=known)
    )
    trial = completed(problem, broken)
    assert trial.evaluation is not None
    evaluation = replace(trial.evaluation, violations={"accuracy >= 1": 7.0})
    searcher.tell(replace(trial, evaluation=evaluation))
    rewards = searcher.state_dict()["ends"][:, 1]
    rise = rise_of(problem, trial.evaluation)
    np.testing.assert_allclose(rewards, [-1.25, -rise - 1.0])


def test_several_qualities_are_averaged_and_latency_is_a_cost() -> None:
    problem = small_problem(units=(8, 8))
    goals = (
        Goal("error", "1", "min", reference=0.9),
        Goal("accuracy", "1", "max", reference=0.0),
        Goal("latency_ms", "ms", "min", reference=4.0),
    )
    values = {"error": 0.1, "accuracy": 0.8, "latency_ms": 4.0}
    dense = Evaluation({name: Measurement(value) for name, value in values.items()})
    searcher = AMC(replace(problem, goals=goals, dense=dense), hidden=8)
    (policy,) = searcher.ask(1)
    values = {"error": 0.5, "accuracy": 0.6, "latency_ms": 1.0}
    found = Evaluation({name: Measurement(value) for name, value in values.items()})
    searcher.tell(Trial(0, policy, "x", 0, TrialState.COMPLETED, evaluation=found))
    # Half of the way from 0.1 to 0.9, and a quarter of that from 0.8 to 0.
    np.testing.assert_allclose(searcher.state_dict()["ends"][:, 1], -0.375)


def test_torch_is_left_as_it_was() -> None:
    problem = small_problem(units=(8, 8))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = search(AMC(problem, seed=0, warmup=4, hidden=8), problem, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert search(AMC(problem, seed=0, warmup=4, hidden=8), problem, 10) == first


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"target": 0.0}, "share of the dense"),
        ({"target": 0.001}, "out of reach"),
        ({"warmup": 0}, "at least 1"),
        ({"hidden": 0}, "at least 1"),
        ({"noise": 0.0}, r"in \(0, 1\]"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, float], rule: str) -> None:
    with pytest.raises(PluginError, match=rule):
        AMC(small_problem(), **options)  # type: ignore[arg-type]


def test_goals_that_are_all_costs_are_refused() -> None:
    problem = small_problem()
    with pytest.raises(PluginError, match="quality is lost"):
        AMC(replace(problem, goals=problem.goals[1:]))


def test_a_space_of_one_network_is_refused() -> None:
    with pytest.raises(PluginError, match="single network"):
        AMC(small_problem(units=(1,), criteria=("l1",)))
