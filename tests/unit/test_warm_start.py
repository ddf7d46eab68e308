"""Warm starts: policies of one network carried over to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.controller.warm_start import carried_over
from autoprune.errors import InputError
from autoprune.policy import LayerDecision, Policy
from autoprune.testing.problem import mixed_problem, small_problem


def test_the_same_groups_keep_the_same_share() -> None:
    problem = small_problem((16, 24, 32))
    policies = [Policy.from_keep_ratios({"conv1": 0.25, "conv3": 0.75}, "l1")]
    assert carried_over(policies, problem.groups, problem) == [
        problem.groups.canonical(policies[0])
    ]


def test_another_network_keeps_what_is_kept_at_the_same_depth() -> None:
    source, problem = small_problem((10, 10)), small_problem((20, 20, 20, 20))
    policy = Policy.from_keep_ratios({"conv1": 0.2, "conv2": 0.6})
    (found,) = carried_over([policy], source.groups, problem)
    # Depths 1/4 and 3/4 against 1/8, 3/8, 5/8 and 7/8: linear between, level outside.
    ratios = [found.keep_ratio(f"conv{index}") for index in (1, 2, 3, 4)]
    assert ratios == pytest.approx([0.2, 0.3, 0.5, 0.6])


def test_equal_results_come_once_and_at_most_twenty() -> None:
    source, problem = small_problem((200,)), small_problem((30, 30))
    policies = [Policy.from_keep_ratios({"conv1": n / 200}) for n in range(20, 200)]
    found = carried_over(policies, source.groups, problem)
    assert len(found) == len(set(found)) <= 20
    kept = [problem.groups.kept_units(each)["conv1"] for each in found]
    assert kept == sorted(kept)
    assert kept[0] == 3
    assert kept[-1] == 30
    assert all(problem.space.contains(each) for each in found)


def test_nothing_to_start_from_is_an_error() -> None:
    problem = small_problem()
    with pytest.raises(InputError, match="no front"):
        carried_over([], problem.groups, problem)


def test_bits_are_carried_over_where_the_space_knows_them() -> None:
    problem = mixed_problem()
    layers = {"conv1": LayerDecision(2, 8), "conv4": LayerDecision(8, 8)}
    policy = replace(Policy.from_keep_ratios({"conv2": 0.5}), layers=layers)
    assert carried_over([policy], problem.groups, problem) == [problem.groups.canonical(policy)]
    # A space without bits takes the units alone.
    plain = small_problem()
    (found,) = carried_over([policy], problem.groups, plain)
    assert found == plain.groups.canonical(Policy.from_keep_ratios({"conv2": 0.5}))


def test_another_network_has_the_bits_of_the_same_depth() -> None:
    source, problem = small_problem((10,)), mixed_problem()
    # Two layers there, five here.
    layers = {"conv1": LayerDecision(4, 8), "conv2": LayerDecision(8, 8)}
    (found,) = carried_over([Policy(layers=layers)], source.groups, problem)
    assert [found.layer(f"conv{index}").weight_bits for index in range(1, 6)] == [4, 4, 8, 8, 8]
