"""LeGR: one threshold over all units, and what evolution makes of the ranking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.legr import LeGR
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Failure, FailureKind, Trial, TrialState
from tests.asking import completed


def test_the_first_ranking_cuts_the_normalised_scores_at_one_threshold() -> None:
    scores = {
        "conv1": np.array([1.0, 3.0, 2.0, 2.0]),  # over their mean of 2: 0.5 1.5 1 1
        "conv2": np.array([100.0, 60.0, 160.0, 80.0]),  # over their mean of 100: 1 0.6 1.6 0.8
    }
    problem = replace(small_problem(units=(4, 4), criteria=("l1",)), scores=scores)
    budget = measure(problem, Policy.from_keep_ratios({"conv1": 0.75, "conv2": 0.5}))
    assert problem.dense is not None
    target = budget.value("macs") / problem.dense.value("macs")
    (policy,) = LeGR(problem, target=target).ask(1)
    # A threshold between 0.8 and 1 keeps three units of the first and two of the second.
    assert problem.groups.kept_units(policy) == {"conv1": 3, "conv2": 2}


def test_scales_and_shifts_move_units_across_the_threshold() -> None:
    problem = small_problem(units=(4, 4), criteria=("l1",))
    searcher = LeGR(replace(problem, scores={}), target=0.5)
    plain = searcher._prices(np.zeros(4))
    moved = searcher._prices(np.array([np.log(2.0), 0.0, 0.0, 0.25]))
    np.testing.assert_allclose(moved[0], 2.0 * plain[0])
    np.testing.assert_allclose(moved[1], plain[1] + 0.25)


def test_shifts_of_a_policy_give_it_back_at_threshold_zero() -> None:
    problem = small_problem(criteria=("l1",))
    searcher = LeGR(problem)
    vector = np.array([3.0, 24.0, 17.0, 1.0])
    prices = searcher._prices(searcher._genes_of(vector))
    picks = searcher._levels.picks(vector)
    for row, pick in enumerate(picks):
        assert (prices[row, : int(pick)] >= 0.0).all()
        assert (prices[row, int(pick) : searcher._levels.top[row]] <= 0.0).all()


def test_fitness_is_the_rise_beyond_what_the_cost_leads_to_expect() -> None:
    problem = small_problem(units=(16, 16), criteria=("l1",))
    searcher = LeGR(problem, population=4, sample=4)
    for kept, rise in ((2, 0.8), (4, 0.4), (3, 0.9), (8, 0.2)):
        policy = Policy.from_keep_ratios({"conv1": kept / 16, "conv2": kept / 16})
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        values = dict(trial.evaluation.measurements)
        values["accuracy"] = replace(values["accuracy"], value=1.0 - rise)
        searcher.tell(replace(trial, evaluation=replace(trial.evaluation, measurements=values)))
    # An accuracy of 0.5 is the worst of interest, so rises are twice what is lost. Expected,
    # falling with the cost: 1.7 where kept is 2 or 3, then 0.8 and 0.4.
    np.testing.assert_allclose(searcher._excess(), [-0.1, 0.0, 0.1, 0.0], atol=1e-12)


def test_a_population_keeps_the_latest_and_nothing_stays_under_way() -> None:
    problem = small_problem()
    searcher = LeGR(problem, population=5, sample=2)
    policies = searcher.ask(9)
    assert len(searcher.state_dict()["under_way"]) == 9
    for policy in policies[:6]:
        searcher.tell(completed(problem, policy))
    failure = Failure(FailureKind.CRASH, "gone")
    searcher.tell(Trial(0, policies[6], "x", 0, TrialState.FAILED, failure=failure))
    searcher.tell(Trial(0, policies[7], "x", 0, TrialState.STOPPED))
    refused = replace(measure(problem, policies[8]), violations={"macs": 0.5})
    searcher.tell(Trial(0, policies[8], "x", 0, TrialState.INFEASIBLE, evaluation=refused))
    state = searcher.state_dict()
    assert state["under_way"] == {}
    assert len(state["members"]) == 5


@pytest.mark.parametrize(
    "options", [{"population": 1}, {"sample": 65}, {"sample": 0}, {"mutation": 1.1}]
)
def test_unusable_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PluginError, match="must be"):
        LeGR(small_problem(), **options)  # type: ignore[arg-type]
