"""Random search: uniform, without repetition, to the last policy."""

from __future__ import annotations

from collections import Counter

import pytest

from agents.random_search import RandomSearch
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Trial, TrialState


def test_every_policy_comes_exactly_once() -> None:
    problem = small_problem(units=(5, 4, 6))
    searcher = RandomSearch(problem, seed=0)
    asked = [policy.sha256 for policy in searcher.ask(1000)]
    assert len(asked) == len(set(asked)) == 5 * 4 * 6 * 2
    assert searcher.ask(1) == []


def test_an_earlier_state_brings_the_rest_back() -> None:
    searcher = RandomSearch(small_problem(units=(5, 4)), seed=0)
    searcher.ask(20)
    state = searcher.state_dict()
    rest = searcher.ask(100)
    assert len(rest) == 20
    searcher.load_state_dict(state)
    assert searcher.ask(100) == rest


@pytest.mark.parametrize("draws", [100, 0])  # drawn blindly, and from a list of the rest
def test_proposals_are_uniform(draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents._known._DRAWS", draws)
    problem = small_problem(units=(4,), criteria=("l1",))
    kept = Counter(
        problem.groups.kept_units(RandomSearch(problem, seed=seed).ask(1)[0])["conv1"]
        for seed in range(800)
    )
    # 200 each; the standard deviation is 12.2.
    assert set(kept) == {1, 2, 3, 4}
    assert all(abs(count - 200) < 50 for count in kept.values())


def test_what_others_tried_is_not_proposed() -> None:
    problem = small_problem(units=(3, 3))
    others = RandomSearch(problem, seed=1).ask(12)
    searcher = RandomSearch(problem, seed=2)
    for number, policy in enumerate(others):
        state = TrialState.COMPLETED if number % 2 else TrialState.FAILED
        searcher.tell(Trial(number, policy, "x", 0, state, evaluation=measure(problem, policy)))
    rest = {policy.sha256 for policy in searcher.ask(100)}
    assert len(rest) == 6
    assert not rest & {policy.sha256 for policy in others}
