"""GP, CMA-ES and Optuna's genetic samplers: each keeps the contract and beats chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from agents._cma import CMA, population_of
from agents.cmaes_search import CMAES
from agents.gp import GP
from agents.optuna_nsga2 import OptunaNSGA2
from agents.optuna_nsga3 import OptunaNSGA3
from agents.random_search import RandomSearch
from agents.tpe import TPE
from autoprune.contracts.objective import Goal
from autoprune.contracts.searcher import Searcher, SearchProblem
from autoprune.errors import PluginError, PolicyError
from autoprune.graph.group import GroupTable
from autoprune.policy import Policy
from autoprune.space import Integer, SearchSpace, Values
from autoprune.testing import SearcherContract
from autoprune.testing.problem import measure, small_problem
from autoprune.trial import Evaluation, Measurement, Trial, TrialState
from tests.asking import completed, hypervolume, search


class NumberSpace(SearchSpace):
    """Kept units of every prunable group, and nothing else."""

    def __init__(self, groups: GroupTable) -> None:
        self._groups = groups
        self.parameters = tuple(Integer(each.name, 1, each.units) for each in groups.prunable)

    def decode(self, values: Values) -> Policy:
        ratios = {x.name: int(values[x.name]) / x.units for x in self._groups.prunable}
        return self._groups.canonical(Policy.from_keep_ratios(ratios))

    def encode(self, policy: Policy) -> Values:
        if policy.recipe.criterion != "l1":
            raise PolicyError("the space ranks by l1")
        return self._groups.kept_units(policy)

    def nearest(self, policy: Policy) -> Values:
        ratios = {x.name: policy.keep_ratio(x.name) for x in self._groups.prunable}
        return self._groups.kept_units(self._groups.canonical(Policy.from_keep_ratios(ratios)))


def numbers(units: tuple[int, ...] = (16, 24, 32, 12)) -> SearchProblem:
    problem = small_problem(units=units)
    return replace(problem, space=NumberSpace(problem.groups))


class TestGP(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return GP(problem, seed=seed, startup=44, modelled=44)

    def problem(self) -> SearchProblem:
        return small_problem(units=(16, 24))


class TestCMAES(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return CMAES(problem, seed=seed, startup=4, directions=2)

    def problem(self) -> SearchProblem:
        return numbers()

    def tiny_problem(self) -> SearchProblem:
        return numbers((3, 2))


class TestOptunaNSGA2(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return OptunaNSGA2(problem, seed=seed, population=8)


class TestOptunaNSGA3(SearcherContract):
    def make(self, problem: SearchProblem, seed: int) -> Searcher:
        return OptunaNSGA3(problem, seed=seed, population=8)


@pytest.mark.slow
@pytest.mark.parametrize("make", [CMAES, OptunaNSGA2, OptunaNSGA3, TPE])
def test_each_beats_random_search(make: type[Searcher]) -> None:
    problem = numbers((32,) * 10)
    found, chance = (
        [
            hypervolume(problem, search(searcher(problem, seed=seed), problem, 150))
            for seed in range(3)
        ]
        for searcher in (make, RandomSearch)
    )
    assert min(found) > max(chance) + 0.02


@pytest.mark.slow
def test_the_gp_beats_in_40_trials_what_chance_finds_in_300() -> None:
    problem = numbers((32,) * 10)
    found = hypervolume(problem, search(GP(problem, seed=0), problem, 40))
    chance = hypervolume(problem, search(RandomSearch(problem, seed=0), problem, 300))
    assert found > chance + 0.03


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


@pytest.mark.parametrize(
    ("make", "trials"),
    [pytest.param(GP, 40, marks=pytest.mark.slow), (CMAES, 150), (OptunaNSGA2, 150)],
)
def test_refused_trials_show_the_way_into_the_feasible_region(
    make: type[Searcher], trials: int
) -> None:
    problem = numbers((32,) * 12)
    end = refuse_above(0.05)  # met by random counts once in thousands of draws
    policies = search(make(problem, seed=0), problem, trials, end)
    ends = [end(problem, policy).state for policy in policies[-20:]]
    assert ends.count(TrialState.COMPLETED) > 10


GOALS = (
    Goal("accuracy", "1", "max"),
    Goal("macs", "1", "min"),
    Goal("params", "1", "min"),
)


@pytest.mark.parametrize(
    "make",
    [pytest.param(GP, marks=pytest.mark.slow), CMAES, OptunaNSGA2, OptunaNSGA3, TPE],
)
@pytest.mark.parametrize("goals", [1, 3])
def test_one_goal_and_three_are_searched(make: type[Searcher], goals: int) -> None:
    problem = replace(numbers((32,) * 4), goals=GOALS[:goals])

    def end(problem: SearchProblem, policy: Policy) -> Trial:
        trial = completed(problem, policy)
        assert trial.evaluation is not None
        params = Measurement(float(problem.costs.costs(policy).params))
        measured = {**trial.evaluation.measurements, "params": params}
        return replace(trial, evaluation=replace(trial.evaluation, measurements=measured))

    policies = search(make(problem, seed=0), problem, 30 if make is GP else 60, end)
    late, early = (
        np.mean([measure(problem, policy).value("accuracy") for policy in part])
        for part in (policies[-10:], RandomSearch(problem, seed=0).ask(50))
    )
    assert goals == 3 or late > early + 0.05


def test_the_gp_leaves_torch_as_it_was() -> None:
    problem = small_problem(units=(16, 16))
    torch.set_num_threads(2)
    try:
        state = torch.random.get_rng_state()
        search(GP(problem, startup=5), problem, 12)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("make", "kept"), [(GP, 20), (TPE, 120), (OptunaNSGA2, 16)])
def test_told_trials_do_not_pile_up_and_the_front_stays(make: type[Searcher], kept: int) -> None:
    options = {GP: {"modelled": 20}, OptunaNSGA2: {"population": 8}}.get(make, {})  # type: ignore[call-overload]
    problem = numbers((32, 32))
    searcher = make(problem, seed=0, **options)  # type: ignore[call-arg]
    rng = np.random.default_rng(0)
    best = problem.space.decode(dict.fromkeys(["conv1", "conv2"], 32))
    searcher.tell(completed(problem, best))
    for _ in range(2 * kept):
        policy = problem.space.decode(problem.space.sample(rng))
        searcher.tell(completed(problem, policy))
    trials = searcher.state_dict()["trials"]
    assert len(trials) == kept
    assert trials[0]["params"] == {"conv1": 32, "conv2": 32}


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (GP, {"startup": 1}, "startup must be at least 2"),
        (GP, {"startup": 20, "modelled": 10}, "modelled must be at least"),
        (CMAES, {"startup": 1}, "startup must be at least 2"),
        (CMAES, {"directions": 0}, "directions must be at least 1"),
        (CMAES, {"spread": 0.0}, "spread must be in"),
        (OptunaNSGA2, {"population": 3}, "population must be at least 4"),
        (OptunaNSGA3, {"crossover": 1.5}, "crossover must be a probability"),
        (OptunaNSGA3, {"mutation": -0.1}, "mutation must be a probability"),
    ],
)
def test_unusable_options_are_refused(
    make: type[Searcher], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(PluginError, match=match):
        make(numbers(), **options)


def test_cmaes_refuses_options_without_order() -> None:
    with pytest.raises(PluginError, match="choices: criterion; use tpe or nsga2"):
        CMAES(small_problem())


def test_cmaes_follows_every_trade_off() -> None:
    problem = numbers((32,) * 8)
    searcher = CMAES(problem, seed=0, directions=3)
    search(searcher, problem, 200)
    means = [each["cma"]["mean"].mean() for each in searcher.state_dict()["directions"]]
    assert max(means) - min(means) > 0.2


def test_failed_trials_do_not_hold_up_a_generation() -> None:
    problem = numbers((32,) * 6)
    searcher = CMAES(problem, seed=0, startup=4, directions=1)
    for number, policy in enumerate(searcher.ask(44)):
        trial = completed(problem, policy)
        state = TrialState.FAILED if number % 2 else TrialState.COMPLETED
        searcher.tell(replace(trial, state=state))
    state = searcher.state_dict()
    # 40 proposals, half of them with a result, 9 to a generation.
    assert state["directions"][0]["cma"]["generation"] == 20 // population_of(6) == 2
    assert state["under_way"] == {}


def sphere(x: np.ndarray) -> float:
    return float(np.sum(x**2))


def ellipsoid(x: np.ndarray) -> float:
    return float(np.sum(np.geomspace(1.0, 1e6, len(x)) * x**2))


def rosenbrock(x: np.ndarray) -> float:
    return float(np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2))


@pytest.mark.parametrize(
    ("function", "generations"), [(sphere, 120), (ellipsoid, 450), (rosenbrock, 500)]
)
def test_cma_solves_known_functions(
    function: Callable[[np.ndarray], float], generations: int
) -> None:
    rng = np.random.default_rng(0)
    cma = CMA(np.full(6, 0.6), 0.3, floor=np.full(6, 1e-9))
    for _ in range(generations):
        points = np.array([cma.sample(rng) for _ in range(population_of(6))])
        cma.learn(points[np.argsort([function(each) for each in points])])
    assert function(cma.mean) < 1e-8


def test_cma_learns_the_scales_of_an_ellipsoid() -> None:
    rng = np.random.default_rng(0)
    cma = CMA(np.full(4, 0.5), 0.3, floor=np.zeros(4))
    for _ in range(150):
        points = np.array([cma.sample(rng) for _ in range(population_of(4))])
        cma.learn(points[np.argsort([ellipsoid(each) for each in points])])
    # The axes differ 1,000-fold.
    deviations = np.sqrt(np.diag(cma.cov))
    assert deviations[0] > 100 * deviations[3]


def test_cma_never_falls_below_its_floor() -> None:
    rng = np.random.default_rng(0)
    cma = CMA(np.full(4, 0.5), 0.3, floor=np.array([0.0, 0.0, 0.0, 0.2]))
    for _ in range(60):
        points = np.array([cma.sample(rng) for _ in range(population_of(4))])
        cma.learn(points[np.argsort([sphere(each) for each in points])])
        assert cma.sigma * np.sqrt(cma.cov[3, 3]) > 0.2 - 1e-9
    assert cma.sigma * np.sqrt(cma.cov[0, 0]) < 0.1


def test_a_far_point_moves_cma_no_further_than_its_longest_step() -> None:
    cma = CMA(np.zeros(4), 0.1, floor=np.zeros(4))
    cma.learn(np.tile([1e6, 0.0, 0.0, 0.0], (4, 1)))
    np.testing.assert_allclose(cma.mean, [0.1 * (2 + 8 / 6), 0.0, 0.0, 0.0])
    assert np.isfinite(cma.cov).all()


def test_optuna_keeps_its_verbosity() -> None:
    before = optuna.logging.get_verbosity()
    problem = small_problem(units=(16, 16))
    search(GP(problem, startup=5), problem, 8)
    assert optuna.logging.get_verbosity() == before
