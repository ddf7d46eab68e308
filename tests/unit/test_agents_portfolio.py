"""The portfolio: credit, exploration, isolation, and one archive for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.portfolio import Portfolio, titled
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy, Recipe
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Trial, TrialState

HERE = "tests.unit.test_agents_portfolio"


def named(*names: str) -> tuple[PluginSpec, ...]:
    return tuple(PluginSpec(name=name) for name in names)


class TestPortfolio(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Portfolio(problem, seed=seed, searchers=named("nsga2", "tpe", "random"))


class Listed(Searcher):
    """Proposes its `policies` in order and remembers what it hears."""

    def __init__(self, problem: SearchProblem, *, seed: int = 0) -> None:
        super().__init__(problem, seed=seed)
        self.asked = 0
        self.heard: list[Trial] = []

    def ask(self, count: int) -> Sequence[Policy]:
        self.asked += 1
        return [self.policy(self.asked)]

    def policy(self, index: int) -> Policy:
        raise NotImplementedError

    def tell(self, trial: Trial) -> None:
        self.heard.append(trial)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


class Good(Listed):
    """Walks along the front: the group that matters least goes first."""

    def policy(self, index: int) -> Policy:
        kept = {"conv1": (64 - index % 64) / 64, "conv2": (64 - index // 64) / 64}
        return Policy.from_keep_ratios(kept)


class Poor(Listed):
    """Stays dense by the worse criterion, but for a channel or two that matter most."""

    def policy(self, index: int) -> Policy:
        kept = {"conv4": (64 - index % 10) / 64, "conv3": (64 - index // 10 % 10) / 64}
        return Policy.from_keep_ratios({**kept, "conv1": (64 - index // 100) / 64}, "l2")


def completed(problem: SearchProblem, policy: Policy, seconds: float = 1.0) -> Trial:
    evaluation = replace(measure(problem, policy), seconds=seconds)
    return Trial(0, policy, "x", 0, TrialState.COMPLETED, evaluation=evaluation)


def run(
    portfolio: Portfolio, problem: SearchProblem, trials: int, seconds: Mapping[str, float]
) -> list[str]:
    """Return the authors of the trials; a trial of an author costs so many seconds."""
    authors = []
    for _ in range(trials):
        (policy,) = portfolio.ask(1)
        author = portfolio.author_of(policy)
        assert author is not None
        authors.append(author)
        portfolio.tell(completed(problem, policy, seconds.get(author, 1.0)))
    return authors


def test_who_gains_is_asked_and_the_rest_keeps_its_share() -> None:
    problem = small_problem((64,) * 4)
    good, poor = f"{HERE}:Good", f"{HERE}:Poor"
    portfolio = Portfolio(problem, searchers=named(good, poor), exploration=0.2)
    authors = run(portfolio, problem, 200, {})
    share = authors.count(poor) / len(authors)
    assert 0.05 < share < 0.43, "a tenth by exploration, more where little is known yet"


def test_seconds_count_unless_the_search_is_timeless() -> None:
    base = small_problem((64,) * 4)
    shares = []
    for is_timeless in (False, True):
        problem = replace(base, is_timeless=is_timeless)
        portfolio = Portfolio(problem, searchers=named("random", "random"), exploration=0.1)
        authors = run(portfolio, problem, 400, {"random": 30.0, "random-2": 1.0})
        shares.append(authors.count("random") / len(authors))
    assert shares[0] < 0.35
    assert shares[1] > 0.35


def test_discounted_credit_follows_a_change() -> None:
    problem = small_problem((64,) * 4)
    good, poor = f"{HERE}:Good", f"{HERE}:Poor"
    portfolio = Portfolio(problem, searchers=named(good, poor), exploration=0.0, discount=0.9)
    run(portfolio, problem, 60, {})
    # From now on the good one only repeats what is known to be bad.
    share = portfolio._shares[good]
    share.searcher.policy = Poor(problem).policy  # type: ignore[method-assign]
    share.searcher.asked = 1000  # type: ignore[attr-defined]
    authors = run(portfolio, problem, 120, {})
    assert authors[60:].count(poor) > 10, "credit of long ago must fade"


def test_everybody_hears_of_everything_but_foreign_generated_weights() -> None:
    problem = small_problem((64,) * 4)
    good, poor = f"{HERE}:Good", f"{HERE}:Poor"
    portfolio = Portfolio(problem, searchers=named(good, poor))
    run(portfolio, problem, 10, {})
    first, second = (each.searcher for each in portfolio._shares.values())
    assert isinstance(first, Listed)
    assert isinstance(second, Listed)
    assert len(first.heard) == len(second.heard) == 10
    generated = replace(Policy(), recipe=Recipe(pruning_net="net"))
    portfolio.tell(completed(problem, generated))
    assert len(first.heard) == len(second.heard) == 10


def test_no_policy_is_proposed_twice_also_not_by_another() -> None:
    problem = small_problem((6, 5))
    portfolio = Portfolio(problem, searchers=named("random", "random", "nsga2"))
    asked = []
    while policies := portfolio.ask(3):
        asked += policies
    assert len(asked) == len(set(asked)) == 60


def test_one_that_never_proposes_anything_feasible_is_retired(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problem = small_problem((64,) * 4)
    good, poor = f"{HERE}:Good", f"{HERE}:Poor"
    portfolio = Portfolio(problem, searchers=named(good, poor))
    for _ in range(1500):
        (policy,) = portfolio.ask(1)
        trial = completed(problem, policy)
        if portfolio.author_of(policy) == poor:
            trial = replace(trial, state=TrialState.INFEASIBLE)
        portfolio.tell(trial)
    assert "nothing feasible" in caplog.text
    assert portfolio._shares[poor].is_retired
    assert not portfolio._shares[good].is_retired


def test_credit_survives_a_round_trip_exactly() -> None:
    problem = small_problem((64,) * 4)
    make = lambda: Portfolio(problem, searchers=named(f"{HERE}:Good", f"{HERE}:Poor"))  # noqa: E731
    portfolio, again = make(), make()
    run(portfolio, problem, 40, {})
    again.load_state_dict(portfolio.state_dict())
    ready = list(portfolio._shares.values())
    np.testing.assert_array_equal(portfolio._odds(ready), again._odds(list(again._shares.values())))
    assert run(portfolio, problem, 40, {}) == run(again, problem, 40, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searchers": ()}, "at least one"),
        ({"searchers": named("portfolio")}, "no portfolio"),
        ({"searchers": named("nsga2"), "exploration": 1.5}, "exploration"),
        ({"searchers": named("nsga2"), "discount": 0.0}, "discount"),
        ({"searchers": named("nsgaa2")}, "unknown searcher"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Portfolio(small_problem(), **options)


def test_titles_are_unique() -> None:
    assert list(titled(named("a", "b", "a", "a"))) == ["a", "b", "a-2", "a-3"]
