"""TPE: its model beats chance after the same design, and its study stays its own."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler

from agents.tpe import TPE
from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import small_problem
from autoprune.trial import TrialState
from tests.asking import completed, hypervolume


class Guessing(TPE):
    """The same design, then chance."""

    def _sampler(self, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)


def run(searcher: TPE, problem: SearchProblem, trials: int) -> list[Policy]:
    policies = []
    for _ in range(trials):
        (policy,) = searcher.ask(1)
        searcher.tell(completed(problem, policy))
        policies.append(policy)
    return policies


@pytest.mark.slow
def test_its_model_beats_chance() -> None:
    problem = small_problem(units=(16,) * 6)
    gains = [
        hypervolume(problem, run(TPE(problem, seed=seed), problem, 100))
        - hypervolume(problem, run(Guessing(problem, seed=seed), problem, 100))
        for seed in range(3)
    ]
    assert min(gains) > 0.0
    assert np.mean(gains) > 0.008


def test_it_learns_from_others() -> None:
    problem = small_problem(units=(16,) * 6)
    searcher = TPE(problem, seed=1)
    searcher.ask(20)  # its own design, never told
    for policy in run(TPE(problem, seed=0), problem, 90):
        searcher.tell(completed(problem, policy))
    late = [policy.recipe.criterion for policy in searcher.ask(20)]
    assert late.count("l1") > 15


@pytest.mark.parametrize("state", [TrialState.INFEASIBLE, TrialState.COMPLETED])
def test_broken_constraints_keep_it_out_of_their_region(state: TrialState) -> None:
    problem = small_problem(units=(16,) * 6)
    dense = problem.costs.costs(Policy()).macs
    searcher = TPE(problem, seed=0)
    shares = []
    for _ in range(100):
        (policy,) = searcher.ask(1)
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        shares.append(problem.costs.costs(policy).macs / dense)
        if shares[-1] > 0.1:
            violations = {"macs <= 0.1 * dense": shares[-1] / 0.1 - 1.0}
            broken = replace(trial.evaluation, violations=violations)
            trial = replace(trial, state=state, evaluation=broken)
        searcher.tell(trial)
    # Chance: one in forty; a model that is not told of violations: about twenty.
    assert sum(share <= 0.1 for share in shares[-40:]) > 30


def test_nothing_is_asked_twice_with_trials_under_way() -> None:
    problem = small_problem(units=(4, 4))
    searcher = TPE(problem, seed=0, startup=4)
    asked = []
    while policies := searcher.ask(3):
        asked += policies
        searcher.tell(completed(problem, policies[0]))
    assert len(asked) == len({policy.sha256 for policy in asked}) == 32


def test_a_state_holds_running_trials_and_goes_through_json() -> None:
    problem = small_problem()
    searcher = TPE(problem, seed=0, startup=4)
    policies = searcher.ask(3)
    searcher.tell(completed(problem, policies[0]))
    searcher.tell(replace(completed(problem, policies[1]), state=TrialState.FAILED))
    state = json.loads(json.dumps(searcher.state_dict()))
    assert [trial["state"] for trial in state["trials"]] == ["COMPLETE", "RUNNING"]
    rebuilt = TPE(problem, seed=0, startup=4)
    rebuilt.load_state_dict(state)
    assert rebuilt.state_dict()["trials"] == state["trials"]
    rebuilt.tell(completed(problem, policies[2]))
    states = [trial["state"] for trial in rebuilt.state_dict()["trials"]]
    assert states == ["COMPLETE", "COMPLETE"]


def test_optuna_keeps_its_verbosity_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.INFO):
            run(TPE(small_problem(), seed=0, startup=2), small_problem(), 5)
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


@pytest.mark.parametrize("options", [{"startup": 1}, {"candidates": 0}])
def test_unusable_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(PluginError, match="at least"):
        TPE(small_problem(), **options)
