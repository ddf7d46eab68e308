"""The suite that every searcher passes, for ours and for yours.

class TestMine(SearcherContract):
    def make(self, problem, seed):
        return Mine(problem, seed=seed)
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.policy import Policy
from autoprune.trial import Evaluation, Failure, FailureKind, Trial, TrialState

from .problem import measure, small_problem

_OTHER_SEED = 1


class SearcherContract:
    """Inherit, and override `make`; the other hooks have defaults that fit most searchers.

    Set `is_seeded` to False for a searcher whose seed changes nothing.
    """

    is_seeded = True

    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        """Return a fresh searcher."""
        raise NotImplementedError

    def problem(self) -> SearchProblem:
        """Return the problem that most tests search."""
        return small_problem()

    def tiny_problem(self) -> SearchProblem:
        """Return a problem with a dozen policies."""
        return small_problem(units=(3, 2))

    def measure(self, problem: SearchProblem, policy: Policy) -> Evaluation:
        """Return what an evaluation of `policy` would measure."""
        return measure(problem, policy)

    # -- asking ---------------------------------------------------------------------------

    def test_asking_for_none_gives_none(self) -> None:
        searcher = self.make(self.problem(), 0)
        assert list(searcher.ask(0)) == []
        assert len(searcher.ask(1)) == 1

    def test_asks_may_pile_up_before_the_first_tell(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        asked = [policy for _ in range(20) for policy in _ask_at_most(searcher, 2)]
        assert asked
        for number, policy in enumerate(asked):
            searcher.tell(self._trial(problem, policy, number))
        assert _ask_at_most(searcher, 3)

    def test_policies_belong_to_the_space(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        asked = self._run(searcher, problem, rounds=15)
        assert asked
        assert all(problem.space.contains(policy) for policy in asked)

    def test_a_tiny_space_is_exhausted(self) -> None:
        problem = self.tiny_problem()
        searcher = self.make(problem, 0)
        asked = self._run(searcher, problem, rounds=100)
        assert len(asked) < 400, "the searcher never ended"
        assert asked
        before = _stored(searcher.state_dict())
        assert list(searcher.ask(4)) == []
        assert repr(_stored(searcher.state_dict())) == repr(before)

    # -- telling --------------------------------------------------------------------------

    def test_tells_may_come_late_and_in_any_order(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        trials = [self._trial(problem, each, n) for n, each in enumerate(searcher.ask(8))]
        for trial in trials[:0:-2]:
            searcher.tell(trial)
        trials += [self._trial(problem, each, 8) for each in _ask_at_most(searcher, 1)]
        for trial in trials[::2]:
            searcher.tell(trial)
        assert _ask_at_most(searcher, 3)

    def test_a_trial_may_be_told_again(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        trials = [self._trial(problem, each, n) for n, each in enumerate(searcher.ask(6))]
        for trial in [*trials, *trials, *(replace(each, rung=1) for each in trials)]:
            searcher.tell(trial)
        assert _ask_at_most(searcher, 3)

    def test_trials_may_end_without_a_result(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        for number in range(0, 40, 4):
            for trial in self._fruitless(problem, searcher.ask(4), number):
                searcher.tell(trial)
        assert _ask_at_most(searcher, 3)

    def test_constraints_may_be_broken(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        for number in range(0, 60, 4):
            for policy in searcher.ask(4):
                trial = self._trial(problem, policy, number)
                assert trial.evaluation is not None
                violated = replace(trial.evaluation, violations={"macs <= 1": 0.1 * number + 0.1})
                searcher.tell(replace(trial, evaluation=violated))
        assert _ask_at_most(searcher, 3)

    def test_trials_of_others_may_be_told(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        rng = np.random.default_rng(0)
        for number in range(50):
            policy = problem.space.decode(problem.space.sample(rng))
            searcher.tell(self._trial(problem, policy, number, searcher="another"))
        assert _ask_at_most(searcher, 3)
        self._run(searcher, problem, rounds=3, number=50)

    def test_trials_outside_the_space_may_be_told(self) -> None:
        problem = self.problem()
        searcher = self.make(problem, 0)
        for number, policy in enumerate(_strangers(problem)):
            evaluation = self.measure(problem, problem.space.decode(_first(problem)))
            for state in (TrialState.COMPLETED, TrialState.FAILED, TrialState.INFEASIBLE):
                searcher.tell(Trial(number, policy, "another", 0, state, evaluation=evaluation))
        assert _ask_at_most(searcher, 3)

    # -- state ----------------------------------------------------------------------------

    def test_the_same_calls_give_the_same_policies(self) -> None:
        problem = self.problem()
        first, second = (self._run(self.make(problem, 5), problem, rounds=12) for _ in range(2))
        assert first == second

    def test_another_seed_gives_other_policies(self) -> None:
        problem = self.problem()
        first, second = (
            self._run(self.make(problem, seed), problem, rounds=12) for seed in (0, _OTHER_SEED)
        )
        assert (first != second) == self.is_seeded

    def test_a_loaded_state_continues_exactly(self) -> None:
        problem = self.problem()
        for rounds in (0, 1, 5, 14):
            original = self.make(problem, 3)
            self._run(original, problem, rounds=rounds)
            under_way = [self._trial(problem, each, 900) for each in original.ask(5)]
            for trial in under_way[:1]:
                original.tell(trial)
            state = _stored(original.state_dict())
            rebuilt = self.make(problem, 3)
            rebuilt.load_state_dict(state)
            futures = []
            for searcher in (original, rebuilt):
                future = self._run(searcher, problem, rounds=2, number=1000)
                for trial in reversed(under_way):
                    searcher.tell(trial)
                futures.append(future + self._run(searcher, problem, rounds=2, number=2000))
            assert futures[0] == futures[1]

    def test_a_loaded_state_replaces_what_was_there(self) -> None:
        problem = self.problem()
        for rounds in (0, 2, 6):
            searcher = self.make(problem, 3)
            self._run(searcher, problem, rounds=rounds)
            state = searcher.state_dict()
            futures = [self._run(searcher, problem, rounds=3, number=100)]
            # The searcher went on, and `state` must not have followed it.
            searcher.load_state_dict(state)
            futures.append(self._run(searcher, problem, rounds=3, number=100))
            assert futures[0] == futures[1]

    def test_global_random_state_is_neither_read_nor_changed(self) -> None:
        problem = self.problem()
        futures = []
        for seed in (0, 1):
            random.seed(seed)
            np.random.seed(seed)
            before = (random.getstate(), _stored(np.random.get_state(legacy=False)))
            searcher = self.make(problem, 4)
            futures.append(self._run(searcher, problem, rounds=12))
            after = (random.getstate(), _stored(np.random.get_state(legacy=False)))
            assert repr(before) == repr(after)
        assert futures[0] == futures[1]

    # -- how the tests drive a searcher ----------------------------------------------------

    def _run(
        self, searcher: Searcher, problem: SearchProblem, rounds: int, number: int = 0
    ) -> list[Policy]:
        """Ask for four and tell them all, until nothing comes or the rounds are over."""
        asked: list[Policy] = []
        for _ in range(rounds):
            policies = _ask_at_most(searcher, 4)
            if not policies:
                break
            for policy in policies:
                searcher.tell(self._trial(problem, policy, number + len(asked)))
                asked.append(policy)
        return asked

    def _trial(
        self, problem: SearchProblem, policy: Policy, number: int, searcher: str = "mine"
    ) -> Trial:
        canonical = problem.groups.canonical(policy)
        evaluation = self.measure(problem, canonical)
        return Trial(
            number, canonical, searcher, 0, TrialState.COMPLETED, attempts=1, evaluation=evaluation
        )

    def _fruitless(
        self, problem: SearchProblem, policies: Sequence[Policy], number: int
    ) -> list[Trial]:
        """Return trials that failed, stopped, or were refused before an evaluation."""
        cheap = self.measure(problem, problem.space.decode(_first(problem)))
        last = problem.goals[-1].name
        refused = replace(
            cheap,
            measurements={last: cheap.measurements[last]},
            violations={f"{last} <= 1": 0.5},
        )
        failure = Failure(FailureKind.NONFINITE, "loss is NaN")
        ends: list[dict[str, Any]] = [
            {"state": TrialState.FAILED, "failure": failure},
            {"state": TrialState.STOPPED},
            {"state": TrialState.INFEASIBLE},
            {"state": TrialState.INFEASIBLE, "evaluation": refused},
        ]
        return [
            Trial(number + offset, policy, "mine", **end)
            for offset, (policy, end) in enumerate(zip(policies, ends, strict=False))
        ]


def _ask_at_most(searcher: Searcher, count: int) -> list[Policy]:
    policies = list(searcher.ask(count))
    assert len(policies) <= count
    return policies


def _first(problem: SearchProblem) -> dict[str, Any]:
    return dict(problem.space.sample(np.random.default_rng(0)))


def _strangers(problem: SearchProblem) -> list[Policy]:
    """Return policies that no space over these groups holds."""
    group = problem.groups.prunable[0].name
    return [
        Policy.from_keep_ratios({"a group of another network": 0.5}),
        Policy.from_keep_ratios({group: 0.5}, criterion="a criterion of another space"),
    ]


def _stored(state: Any) -> Any:
    """Return `state` as a store gives it back; fails on all but JSON values and arrays."""
    if isinstance(state, np.ndarray):
        assert state.dtype.kind in "biufU", f"an array of {state.dtype} cannot be stored"
        return state.copy()
    if isinstance(state, dict):
        assert all(type(key) is str for key in state), f"keys must be strings: {list(state)}"
        return {key: _stored(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_stored(value) for value in state]
    assert type(state) in (str, int, float, bool, type(None)), f"{type(state)} cannot be stored"
    return json.loads(json.dumps(state, allow_nan=False))
