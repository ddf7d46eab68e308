"""EagleEye: its networks are random, and cost what they should."""

from __future__ import annotations

import numpy as np
import pytest

from agents.eagle_eye import EagleEye
from autoprune.errors import PluginError
from autoprune.policy import Policy
from autoprune.testing.problem import small_problem


@pytest.mark.parametrize("band", [0.005, 0.0005])
def test_every_policy_costs_the_target_within_the_band(band: float) -> None:
    problem = small_problem(units=(32,) * 8)
    dense = problem.costs.costs(Policy()).macs
    for target in (0.1, 0.5, 0.9):
        policies = EagleEye(problem, target=target, band=band).ask(30)
        found = np.array([problem.costs.costs(policy).macs / dense for policy in policies])
        assert len(found) == 30
        assert np.abs(found - target).max() <= band
        kept = np.array(
            [[policy.keep_ratio(f"conv{index}") for index in range(1, 9)] for policy in policies]
        )
        assert (kept.std(axis=0) > 0.01).all()
        assert {policy.recipe.criterion for policy in policies} == {"l1", "l2"}


def test_budgets_divide_the_range_evenly() -> None:
    problem = small_problem(units=(32,) * 8)
    dense = problem.costs.costs(Policy()).macs
    policies = EagleEye(problem).ask(50)
    found = np.sort([problem.costs.costs(policy).macs / dense for policy in policies])
    assert np.abs(found - (np.arange(50) + 0.5) / 50).max() < 0.04


def test_bands_that_are_no_share_or_hold_nothing_are_refused() -> None:
    with pytest.raises(PluginError, match="band must be"):
        EagleEye(small_problem(), band=0.0)
    with pytest.raises(PluginError, match=r"no network found within 0\.0001 of target 0\.5"):
        EagleEye(small_problem(units=(3, 2)), target=0.5, band=0.0001)
