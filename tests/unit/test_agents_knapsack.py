"""Knapsack: exact packing, weights learned from trials, budgets of measured latency."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from agents.knapsack import Knapsack, pack, unpack
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState


def timed(problem: SearchProblem, policy: Policy) -> Evaluation:
    """Return a latency beside the accuracy: conv1 is all that costs time."""
    evaluation = measure(problem, policy)
    latency = Measurement(2.0 + 8.0 * policy.keep_ratio("conv1"))
    return replace(evaluation, measurements={**evaluation.measurements, "latency_ms": latency})


def timed_problem(units: tuple[int, ...] = (16, 16, 16)) -> SearchProblem:
    problem = small_problem(units=units)
    goals = (problem.goals[0], Goal("latency_ms", "ms", "min", reference=10.0))
    return replace(problem, goals=goals, dense=timed(problem, Policy()))


class TestTimedKnapsack(SearcherContract):
    def problem(self) -> SearchProblem:
        return timed_problem()

    def tiny_problem(self) -> SearchProblem:
        return timed_problem(units=(3, 2))

    def measure(self, problem: SearchProblem, policy: Policy) -> Evaluation:
        return timed(problem, policy)

    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Knapsack(problem, seed=seed, cost="latency_ms")


def completed(policy: Policy, evaluation: Evaluation) -> Trial:
    return Trial(0, policy, "x", 0, TrialState.COMPLETED, evaluation=evaluation)


def test_packing_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        damage = -np.sort(-rng.random((4, 3)), axis=1)
        weights = np.concatenate([np.zeros((4, 1)), np.sort(rng.integers(1, 6, (4, 2)))], axis=1)
        weights = weights.astype(np.int64)
        choices = pack(damage, weights, 20)
        rows = np.arange(4)
        for budget in range(21):
            picks = unpack(choices, weights, budget)
            assert weights[rows, picks].sum() <= budget
            fitting = (
                damage[rows, each].sum()
                for each in itertools.product(range(3), repeat=4)
                if weights[rows, each].sum() <= budget
            )
            assert damage[rows, picks].sum() == pytest.approx(min(fitting))


def test_the_true_cost_meets_the_budget_whatever_the_interactions() -> None:
    problem = small_problem(units=(24,) * 6)
    assert problem.dense is not None
    dense = problem.dense.value("macs")
    for target in (0.15, 0.4, 0.75):
        for policy in Knapsack(problem, target=target).ask(5):
            share = measure(problem, policy).value("macs") / dense
            assert target - 0.05 < share <= target


def test_units_of_high_scores_are_kept() -> None:
    scores = {"conv1": np.array([8.0] + 7 * [0.1]), "conv2": np.linspace(1.0, 1.1, 8)}
    problem = replace(small_problem(units=(8, 8), criteria=("l1",)), scores=scores)
    searcher = Knapsack(problem)
    picks = searcher._packed(searcher._levels.gone, searcher._levels.top, 0.5)
    kept = searcher._levels.values[np.arange(2), picks]
    # Nine tenths of the saliency of the first group sit in one of its units.
    assert kept[0] <= 5
    assert kept[1] >= 7


def test_costs_of_the_tables_can_be_chosen() -> None:
    problem = small_problem(units=(24,) * 4)
    dense = problem.costs.costs(Policy())
    for policy in Knapsack(problem, cost="params", target=0.3).ask(4):
        assert 0.25 < problem.costs.costs(policy).params / dense.params <= 0.3


def test_told_trials_weigh_the_groups() -> None:
    problem = small_problem(units=(16,) * 4, criteria=("l1",))
    searcher = Knapsack(problem)
    rng = np.random.default_rng(0)
    true = np.array([0.05, 2.0, 0.3, 0.7])
    levels = searcher._levels
    for _ in range(60):
        picks = rng.integers(6, 16, 4)
        policy = problem.space.decode(searcher._genome.values(levels.vectors(picks[None])[0]))
        damage = true @ levels.gone[np.arange(4), picks]
        evaluation = measure(problem, policy)
        accuracy = Measurement(0.5 + 0.5 * float(np.exp(-damage)))
        values = {**evaluation.measurements, "accuracy": accuracy}
        searcher.tell(completed(policy, replace(evaluation, measurements=values)))
    np.testing.assert_allclose(searcher.state_dict()["weights"], true, rtol=0.1, atol=0.02)


def test_latencies_of_single_groups_are_measured_first_and_then_used() -> None:
    problem = timed_problem()
    searcher = Knapsack(problem, target=0.6, levels=1)
    probes = searcher.ask(3)
    assert [dict(policy.decisions).keys() for policy in probes] == [
        {"conv1"},
        {"conv2"},
        {"conv3"},
    ]
    for policy in probes:
        searcher.tell(completed(policy, timed(problem, policy)))
    for policy in searcher.ask(6):
        # Half of conv1 takes 6 of 10 ms; the other groups save no time and stay whole.
        assert policy.decisions.keys() == {"conv1"}
        assert timed(problem, policy).value("latency_ms") <= 6.01


def test_a_latency_that_does_not_add_up_is_corrected() -> None:
    problem = timed_problem()
    searcher = Knapsack(problem, levels=1)
    for policy in searcher.ask(3):
        searcher.tell(completed(policy, timed(problem, policy)))
    half = Policy.from_keep_ratios({"conv1": 0.5, "conv2": 0.5})
    picks = np.array([[7, 7, 15]])
    assert searcher._share(picks)[0] == pytest.approx(0.6)
    evaluation = timed(problem, half)
    values = {**evaluation.measurements, "latency_ms": Measurement(8.0)}
    searcher.tell(completed(half, replace(evaluation, measurements=values)))
    # Of 0.4 predicted 0.2 were saved.
    assert searcher._share(picks)[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "latency_ms"}, "add it to the objectives"),
        ({"cost": "seconds"}, "cost must be one of macs, params"),
        ({"levels": 0}, "levels must be at least 1"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Knapsack(small_problem(), **options)  # type: ignore[arg-type]
