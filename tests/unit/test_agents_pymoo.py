"""The family of NSGA-II and Sobol: each beats chance, and keeps whom its paper keeps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents._genome import Genome
from agents._pymoo import SteadyState, directions
from agents.agemoea2 import AGEMOEA2, _exponent, _scores
from agents.ctaea import CTAEA
from agents.nsga2 import NSGA2
from agents.nsga3 import NSGA3
from agents.random_search import RandomSearch
from agents.smsemoa import SMSEMOA
from agents.sobol import Sobol
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState

from .test_agents_nsga2 import completed, hypervolume, refuse_above, search

FAMILY = (NSGA2, NSGA3, AGEMOEA2, SMSEMOA, CTAEA)
SPREADING = FAMILY[1:]


class TestNSGA3(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return NSGA3(problem, seed=seed, population=12)


class TestAGEMOEA2(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return AGEMOEA2(problem, seed=seed, population=12)


class TestSMSEMOA(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return SMSEMOA(problem, seed=seed, population=12)


class TestCTAEA(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return CTAEA(problem, seed=seed, population=12)


class TestSwitchingOnly(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return NSGA2(problem, seed=seed, population=12, switch=1.0)


class TestSobol(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return Sobol(problem, seed=seed)


class Table:
    """Tells a searcher of trials whose losses are written by hand; each is another policy."""

    def __init__(self, goals: int = 2) -> None:
        problem = small_problem(units=(16,) * 6, criteria=("l1",))
        names = [f"loss {number}" for number in range(goals)]
        self.problem = replace(problem, goals=tuple(Goal(each, "1", "min") for each in names))
        self._policies = RandomSearch(self.problem, seed=0).ask(200)[::-1]

    def tell(self, searcher: Searcher, losses: Sequence[float], violation: float = 0.0) -> Policy:
        policy = self._policies.pop()
        values = {
            goal.name: Measurement(float(loss))
            for goal, loss in zip(self.problem.goals, losses, strict=False)
        }
        state = TrialState.COMPLETED if values else TrialState.INFEASIBLE
        evaluation = Evaluation(values, violations={"a <= b": violation} if violation else {})
        searcher.tell(Trial(0, policy, "x", 0, state, evaluation=evaluation))
        return policy


def held(searcher: SteadyState, archive: str = "population") -> set[tuple[float, ...]]:
    """Return the losses of a population."""
    return {tuple(row) for row in searcher.state_dict()[archive]["F"].tolist()}


def three_goals(units: Sequence[int] = (32,) * 8) -> SearchProblem:
    problem = small_problem(units=units)
    params = float(problem.costs.costs(Policy()).params)
    return replace(problem, goals=(*problem.goals, Goal("params", "1", "min", params)))


def three_measured(problem: SearchProblem, policy: Policy) -> Trial:
    trial = completed(problem, policy)
    assert trial.evaluation is not None
    params = Measurement(float(problem.costs.costs(policy).params))
    measurements = {**trial.evaluation.measurements, "params": params}
    return replace(trial, evaluation=replace(trial.evaluation, measurements=measurements))


# -- what all share -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chance() -> list[float]:
    problem = small_problem(units=(32,) * 10)
    return [
        hypervolume(problem, search(RandomSearch(problem, seed=seed), problem, 150))
        for seed in range(4)
    ]


@pytest.mark.parametrize("family", SPREADING)
def test_each_beats_random_search_by_a_clear_margin(
    family: type[Searcher], chance: list[float]
) -> None:
    problem = small_problem(units=(32,) * 10)
    volumes = [
        hypervolume(problem, search(family(problem, seed=seed), problem, 150)) for seed in range(3)
    ]
    assert min(volumes) > max(chance) + 0.02
    assert np.mean(volumes) > np.mean(chance) + 0.05


@pytest.mark.parametrize("family", SPREADING)
def test_refused_trials_show_the_way_into_the_feasible_region(family: type[Searcher]) -> None:
    # Random counts satisfy this once in thousands of draws.
    problem = small_problem(units=(32,) * 12)
    end = refuse_above(0.05)
    policies = search(family(problem, seed=0), problem, 150, end)
    ends = [end(problem, policy).state for policy in policies[-50:]]
    assert ends.count(TrialState.COMPLETED) > 25


@pytest.mark.parametrize("family", FAMILY)
def test_three_goals_are_searched_and_their_state_continues_exactly(
    family: type[Searcher],
) -> None:
    problem = three_goals()
    searcher = family(problem, seed=0)
    found = search(searcher, problem, 100, three_measured)
    blind = search(RandomSearch(problem, seed=0), problem, 100, three_measured)
    assert hypervolume(problem, found) > hypervolume(problem, blind) + 0.03
    rebuilt = family(problem, seed=0)
    rebuilt.load_state_dict(searcher.state_dict())
    futures = [search(each, problem, 20, three_measured) for each in (searcher, rebuilt)]
    assert futures[0] == futures[1]


def test_one_goal_is_for_nsga2_alone() -> None:
    problem = small_problem(units=(32,) * 8)
    problem = replace(problem, goals=problem.goals[:1])
    policies = search(NSGA2(problem, seed=0, population=10), problem, 80)
    found = [measure(problem, policy).value("accuracy") for policy in policies]
    # The dense corner of the design, with the better criterion, cannot be improved upon.
    assert np.mean(found[-20:]) > np.mean(found[:10]) + 0.1
    for family in SPREADING:
        with pytest.raises(PluginError, match=r"at least 2 goals, given: 1; use nsga2"):
            family(problem)


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("option", [{"population": 3}, {"mutation": -0.1}, {"switch": 1.5}])
def test_unusable_options_are_refused(family: Any, option: dict[str, float]) -> None:
    with pytest.raises(PluginError, match=rf"{next(iter(option))} must be"):
        family(small_problem(), **option)


# -- whom each keeps ------------------------------------------------------------------------


def test_smsemoa_lets_the_least_contributor_go() -> None:
    table = Table()
    searcher = SMSEMOA(table.problem, population=4)
    # (1.2, 4.9) adds 0.38 to the hypervolume and (1, 5) adds 1; crowding would keep the former.
    for losses in ((0, 10), (1, 5), (1.2, 4.9), (5, 1), (10, 0)):
        table.tell(searcher, losses)
    assert held(searcher) == {(0, 10), (1, 5), (5, 1), (10, 0)}
    table.tell(searcher, (6, 6))
    assert (6, 6) not in held(searcher)


def test_nsga3_fills_every_direction_of_three_goals() -> None:
    table = Table(goals=3)
    searcher = NSGA3(table.problem, seed=0, population=10)
    rays = directions(3, 10)
    assert len(rays) == 10
    scales = np.array([1.0, 1e-5, 1e8])
    rng = np.random.default_rng(0)
    crowd = rays[0] + 0.03 * rng.random((20, 3))
    crowd /= crowd.sum(axis=1, keepdims=True)
    corners = rays[rays.max(axis=1) == 1.0]
    inner = rays[rays.max(axis=1) < 1.0]
    for point in (*corners, *crowd, *inner):
        table.tell(searcher, 5.0 * scales + point * scales)
    found = np.array(sorted(held(searcher)))
    wanted = np.array(sorted(tuple(5.0 * scales + ray * scales) for ray in rays))
    np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_nsga3_is_not_misled_by_small_losses_or_awful_ones(scale: float) -> None:
    table = Table()
    searcher = NSGA3(table.problem, population=4)
    # Of the second rank, (0.7, 0.9) lies where no other is, and (0.3, 1000) does not.
    for losses in ((0.0, 1.0), (1.0, 0.0), (0.66, 0.36), (0.3, 1000.0), (0.7, 0.9)):
        table.tell(searcher, np.array(losses) * scale)
    wanted = ((0.0, 1.0), (1.0, 0.0), (0.66, 0.36), (0.7, 0.9))
    assert held(searcher) == {tuple(np.array(each) * scale) for each in wanted}


def test_nsga3_leaves_warnings_as_they_are() -> None:
    table = Table(goals=3)
    searcher = NSGA3(table.problem, population=4)
    before = list(warnings.filters)
    for losses in np.eye(3).tolist() * 2:
        table.tell(searcher, losses)
    assert warnings.filters == before


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 6.0])
def test_agemoea2_finds_the_shape_of_a_front(exponent: float) -> None:
    shares = np.linspace(0.0, 1.0, 9)
    front = np.column_stack([shares, 1.0 - shares]) ** (1.0 / exponent)
    corners = np.array([0, 8])
    assert _exponent(front, corners) == pytest.approx(exponent, rel=1e-3)
    assert _exponent(front[corners], np.array([0, 1])) == 1.0


def test_agemoea2_scores_whoever_is_farthest_from_those_chosen_first() -> None:
    shares = np.array([0.0, 0.1, 0.2, 0.6, 1.0])
    front = np.column_stack([shares, 1.0 - shares])
    front[1] *= 0.99  # nearer to the ideal, so the first to join the ends
    scores = _scores(front, np.array([0, 4]), 1.0) / np.sqrt(2.0)
    # To the nearest two of (0, 0.1, 1) from 0.6, then of (0, 0.1, 0.6, 1) from 0.2.
    assert scores.tolist() == pytest.approx([np.inf, 1.0 / 0.99, 0.1 + 0.2, 0.4 + 0.5, np.inf])


def test_agemoea2_keeps_the_ends_and_the_spread_on_any_scale() -> None:
    for scales in ((1.0, 1.0), (1e-6, 1e9)):
        table = Table()
        searcher = AGEMOEA2(table.problem, population=4)
        points = [(0.0, 1.0), (0.32, 0.7), (0.35, 0.65), (0.7, 0.3), (1.0, 0.0)]
        for point in points:
            table.tell(searcher, np.array(point) * scales)
        kept = np.array(sorted(held(searcher))) / scales
        np.testing.assert_allclose(kept[[0, 2, 3]], [(0.0, 1.0), (0.7, 0.3), (1.0, 0.0)])
        # Of later ranks, whoever is nearest to the ideal stays.
        searcher = AGEMOEA2(table.problem, population=4)
        for point in [(0.0, 1.0), (1.0, 0.0), (0.1, 1.9), (1.2, 1.2), (1.9, 0.1), (1.1, 1.1)]:
            table.tell(searcher, np.array(point) * scales)
        kept = np.array(sorted(held(searcher))) / scales
        np.testing.assert_allclose(kept, [(0.0, 1.0), (0.1, 1.9), (1.0, 0.0), (1.9, 0.1)])


@pytest.mark.parametrize(
    ("points", "worst"),
    [
        # Directions are (0, 1), (1, 2), (2, 1) and (1, 0). Alone in the last rank:
        ([(0.0, 1.0), (0.3, 0.7), (0.65, 0.35), (1.0, 0.0), (0.34, 0.71)], (0.34, 0.71)),
        # Less near to direction (1, 2) than the other one there:
        ([(0.0, 1.0), (0.36, 0.66), (0.3, 0.68), (0.66, 0.34), (1.0, 0.0)], (0.36, 0.66)),
        # (0.12, 0.86) is nearer, yet of another region; (0.3, 0.65) is of the same and fitter:
        ([(0.0, 1.0), (0.12, 0.86), (0.2, 0.78), (0.3, 0.65), (1.0, 0.0)], (0.2, 0.78)),
    ],
)
def test_ctaea_thins_out_the_most_crowded_region(
    points: list[tuple[float, float]], worst: tuple[float, float]
) -> None:
    table = Table()
    searcher = CTAEA(table.problem, population=4)
    scales = np.array([1e-3, 1e8])  # as unlike as those of an error and of macs
    for point in points:
        table.tell(searcher, point * scales)
    kept = np.array(sorted(held(searcher))) / scales
    np.testing.assert_allclose(kept, sorted(set(points) - {worst}))


def test_ctaea_explores_where_the_archives_hold_least() -> None:
    table = Table()
    searcher = CTAEA(table.problem, population=4)
    for point in ((0.0, 1.0), (1.0, 0.0), (0.3, 0.7), (0.33, 0.67)):
        table.tell(searcher, point)
    # Broken constraints keep these out of the other archive. Where both hold most, the
    # dominated one goes first; where a region is empty, even a poor trial comes in.
    table.tell(searcher, (0.4, 0.9), 1.0)
    assert (0.4, 0.9) not in held(searcher, "diverse")
    table.tell(searcher, (0.9, 0.5), 1.0)
    assert held(searcher, "diverse") >= {(0.0, 1.0), (0.9, 0.5), (1.0, 0.0)}
    assert (0.9, 0.5) not in held(searcher)


def test_ctaea_breeds_from_good_trials_that_break_constraints() -> None:
    table = Table()
    searcher = CTAEA(table.problem, seed=0, population=4, crossover=0.0, mutation=0.0)
    searcher.ask(4)
    feasible = [table.tell(searcher, (5 + step, 9 - step)) for step in range(4)]
    broken = [table.tell(searcher, (1 + step, 4 - step), 0.5) for step in range(4)]
    refused = table.tell(searcher, (), 0.1)
    assert held(searcher) == {(5, 9), (6, 8), (7, 7), (8, 6)}
    assert held(searcher, "diverse") & {(1, 4), (2, 3), (3, 2), (4, 1)}
    assert not np.isinf(searcher.state_dict()["diverse"]["F"]).any()
    vectors = searcher.state_dict()["diverse"]["X"].tolist()
    genome = Genome(table.problem.space)
    encoded = [genome.vector(table.problem.space.encode(each)).tolist() for each in broken]
    assert any(each in vectors for each in encoded)
    parents = {tuple(searcher._parents(2)[0]) for _ in range(40)}
    assert parents & {tuple(each) for each in encoded}
    assert tuple(genome.vector(table.problem.space.encode(refused))) not in parents
    assert len(feasible) == 4


def test_ctaea_keeps_the_least_violated_until_enough_are_feasible() -> None:
    table = Table()
    searcher = CTAEA(table.problem, population=4)
    for violation in (4.0, 3.0, 2.0, 1.0, 5.0, 0.5):
        table.tell(searcher, (), violation)
    violations = sorted(searcher.state_dict()["population"]["G"].ravel().tolist())
    assert violations == [0.5, 1.0, 2.0, 3.0]
    for step in range(4):
        table.tell(searcher, (step, 4 - step))
    assert not searcher.state_dict()["population"]["G"].any()


# -- Sobol ----------------------------------------------------------------------------------


def test_sobol_visits_every_level_equally_often() -> None:
    problem = small_problem(units=(16, 8, 32, 16))
    for seed in range(3):
        policies = Sobol(problem, seed=seed).ask(64)
        kept = [problem.groups.kept_units(policy) for policy in policies]
        for group in problem.groups.prunable:
            counts = np.bincount([each[group.name] for each in kept])[1:]
            assert set(counts.tolist()) == {64 // group.units}
        assert [policy.recipe.criterion for policy in policies].count("l1") == 32


def test_sobol_goes_on_to_the_last_policy_of_a_space() -> None:
    problem = small_problem(units=(6, 5))
    searcher = Sobol(problem, seed=0)
    asked = searcher.ask(40)
    state = json.loads(json.dumps(searcher.state_dict()))
    rebuilt = Sobol(problem, seed=0)
    rebuilt.load_state_dict(state)
    rest = searcher.ask(100)
    assert rest == rebuilt.ask(100)
    assert len({policy.sha256 for policy in (*asked, *rest)}) == 60
