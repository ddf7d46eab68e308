"""Bisection: probes, monotone curves, and thresholds that meet budgets."""

from __future__ import annotations

import numpy as np
import pytest

from agents._genome import Genome
from agents._levels import Levels
from agents._probes import Probes
from agents.bisection import Bisection
from autoprune.contracts.searcher import SearchProblem
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import mixed_problem, small_problem
from tests.asking import completed


def lowered(problem: SearchProblem, policy: Policy) -> dict[str, int]:
    counts = problem.groups.kept_units(policy)
    return {name: count for name, count in counts.items() if count < problem.groups[name].units}


def test_every_group_is_first_measured_alone_at_its_lowest() -> None:
    problem = small_problem()
    asked = Bisection(problem).ask(4)
    assert [lowered(problem, policy) for policy in asked] == [
        {"conv1": 1},
        {"conv2": 1},
        {"conv3": 1},
        {"conv4": 1},
    ]


def test_further_levels_take_turns_with_thresholds() -> None:
    problem = small_problem(units=(16, 16, 16, 16))
    later = [lowered(problem, policy) for policy in Bisection(problem, levels=3).ask(40)[4:]]
    planned = [{f"conv{index}": kept} for index in range(1, 5) for kept in (6, 11)]
    probes = [each for each in later if each in planned]
    assert len(probes) == len(planned)
    assert len(later[later.index(probes[0]) : later.index(probes[-1])]) > 8


def test_of_layers_that_are_alike_only_so_many_give_in_as_a_budget_needs() -> None:
    for seed in range(5):
        asked = Bisection(mixed_problem(), seed=seed).ask(24)
        bits = [{each.weight_bits for each in policy.layers.values()} for policy in asked]
        # Hardly a layer is probed: thresholds alone would nearly always take all or none.
        assert sum(len(each) > 1 for each in bits) > 1


def test_probes_of_others_are_used_and_not_asked_again() -> None:
    problem = small_problem()
    searcher = Bisection(problem)
    searcher.tell(completed(problem, Policy.from_keep_ratios({"conv2": 1 / 24})))
    assert [lowered(problem, policy) for policy in searcher.ask(2)] == [{"conv1": 1}, {"conv3": 1}]
    assert np.isfinite(searcher.state_dict()["probes"]["found"]).sum() == 1


def test_curves_are_monotone_and_pass_through_the_regression() -> None:
    problem = small_problem(units=(10, 10), criteria=("l1",))
    levels = Levels(problem, Genome(problem.space))
    probes = Probes(levels, 3)
    whole = Genome(problem.space).diagonal(1.0)
    for kept, effect in ((1, 0.81), (4, 0.3), (7, 0.42), (9, -0.01)):
        assert probes.learn(np.array([kept, 10.0, 0.0]), effect)
    assert not probes.learn(whole, 5.0)
    assert not probes.learn(np.array([5.0, 5.0, 0.0]), 5.0)
    curve, rest = probes.curves(2.0)
    assert (np.diff(curve) <= 0.0).all()
    # 0.3 below 0.42 are pooled; what is below nothing counts as nothing.
    np.testing.assert_allclose(curve[[0, 3, 6, 8, 9]], [0.81, 0.36, 0.36, 0.0, 0.0])
    # Without any result a group follows the others, as the square of what it loses.
    np.testing.assert_allclose(rest[[0, 5, 9]], [0.81 * 0.81, 0.81 * 0.16, 0.0])


def test_roots_are_interpolated_and_go_on_beyond_the_lowest_probe() -> None:
    problem = small_problem(units=(10,), criteria=("l1",))
    probes = Probes(Levels(problem, Genome(problem.space)), 1)
    probes.learn(np.array([6.0, 0.0]), 0.16)
    np.testing.assert_allclose(probes.curves(2.0)[0], (1.0 - np.arange(1, 11) / 10) ** 2)


@pytest.mark.parametrize("budget", [0.001, 0.2, 0.5, 0.8, 1.0])
def test_a_threshold_affords_as_much_as_the_budget_allows(budget: float) -> None:
    problem = small_problem()
    levels = Levels(problem, Genome(problem.space))
    rng = np.random.default_rng(0)
    prices = -np.sort(-rng.random((4, levels.values.shape[1] - 1)), axis=1)

    def share(picks: np.ndarray) -> np.ndarray:
        dense = problem.costs.costs(Policy()).macs
        policies = [
            problem.space.decode(Genome(problem.space).values(vector))
            for vector in levels.vectors(picks)
        ]
        return np.array([problem.costs.costs(policy).macs / dense for policy in policies])

    found = levels.within(prices, budget, share)
    exists = np.arange(1, prices.shape[1] + 1) < (levels.top + 1)[:, None]
    thresholds = [-1.0, *prices[exists]]
    every = [((prices > threshold) & exists).sum(axis=1) for threshold in thresholds]
    allowed = [picks for picks in every if share(picks[None])[0] <= budget]
    best = max(allowed, key=lambda picks: int(picks.sum()), default=np.zeros(4))
    assert found.tolist() == best.tolist()


def test_after_the_probes_insensitive_groups_are_reduced_most() -> None:
    problem = small_problem(units=(32,) * 6, criteria=("l1",))
    searcher = Bisection(problem, target=0.4, levels=1)
    for policy in searcher.ask(6):
        searcher.tell(completed(problem, policy))
    (policy,) = searcher.ask(1)
    kept = [problem.groups.kept_units(policy)[f"conv{index}"] for index in range(1, 7)]
    assert kept == sorted(kept)
    assert kept[0] < 10 < 25 < kept[-1]


def test_late_policies_vary_the_front_and_keep_its_options() -> None:
    problem = small_problem(units=(32,) * 6)
    searcher = Bisection(problem, target=0.4)
    values = {f"conv{index}": 20 for index in range(1, 7)} | {"criterion": "l2"}
    searcher.tell(completed(problem, problem.space.decode(values)))
    later = [policy for policy in searcher.ask(20) if len(lowered(problem, policy)) == 6]
    varied = [policy for policy in later if policy.recipe.criterion == "l2"]
    assert varied
    for policy in varied:
        counts = np.array(list(problem.groups.kept_units(policy).values()))
        assert np.abs(counts - 20).max() < 12


def test_no_level_is_refused() -> None:
    with pytest.raises(PluginError, match="levels must be at least 1"):
        Bisection(small_problem(), levels=0)
