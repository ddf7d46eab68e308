"""The policy that all criteria share: the largest of its kind within a share of a cost."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.comparison.target import _bound, targets_of
from autoprune.errors import InputError
from autoprune.policy import Decision, Policy
from autoprune.surgery.examination import examine
from autoprune.validation import validated
from search_spaces.layerwise import Layerwise
from search_spaces.mixed import Mixed
from tests.networks import Concat, Residual


def found_of(model: nn.Module, space: str = "layerwise", **options: Any) -> Any:
    """What of a pre-flight the targets are made of."""
    graph = examine(model.eval(), torch.randn(2, 3, 8, 8)).graph
    kinds = {"layerwise": Layerwise, "mixed": Mixed}
    body = {"model": {"import": "tests.networks:Chain"}, "data": {"name": "digits"}}
    return SimpleNamespace(
        job=validated(body),
        preparation=SimpleNamespace(graph=graph),
        space=kinds[space](graph.groups, **options),
        dense=graph.costs.costs(Policy()),
    )


def levels(units: int, low: float, high: float, round_to: int) -> list[int]:
    """The counts that the documentation of the space allows."""
    allowed = [x for x in range(1, units + 1) if low * units <= x + 1e-9 and x <= high * units]
    return [x for x in allowed if x % round_to == 0 or (x == units and high == 1.0)]


def slow_target(
    found: Any, share: float, of: str, low: float, high: float, round_to: int, whole: str
) -> dict[str, int]:
    """The kept units of the largest common ratio, tried one by one in exact arithmetic."""
    groups, costs = found.preparation.graph.groups, found.preparation.graph.costs
    bound = Fraction(str(share)) * getattr(found.dense, of)
    places = {Fraction(k, 2 * x.units) for x in groups.prunable for k in range(2 * x.units + 1)}
    ends = sorted(places)
    between = [(one + other) / 2 for one, other in pairwise(ends)]
    best: dict[str, int] = {}
    for ratio in sorted([*ends[1:], *between]):
        counts = {}
        for x in groups.prunable:
            allowed = [x.units] if x.name == whole else levels(x.units, low, high, round_to)
            counts[x.name] = min(allowed, key=lambda n: (abs(n - ratio * x.units), -n))
        decisions = {name: Decision(n / groups[name].units) for name, n in counts.items()}
        if getattr(costs.costs(Policy(decisions)), of) <= bound:
            best = counts
    return best


@pytest.mark.parametrize(
    ("low", "high", "round_to", "whole"),
    [(0.1, 1.0, 1, ""), (0.3, 0.9, 1, ""), (0.1, 1.0, 4, ""), (0.1, 1.0, 1, "one")],
)
@pytest.mark.parametrize("of", ["macs", "params", "size_bytes"])
def test_a_target_is_what_a_slow_twin_finds(
    of: Any, low: float, high: float, round_to: int, whole: str
) -> None:
    options = {"exclude": (whole,)} if whole else {}
    found = found_of(Residual(), keep_ratio=(low, high), round_to=round_to, **options)
    groups = found.preparation.graph.groups
    for share in (0.93, 0.75, 0.5):
        (target,) = targets_of((share,), of, found)
        slow = slow_target(found, share, of, low, high, round_to, whole)
        assert groups.kept_units(target.policy) == slow
        assert target.cost <= share * target.dense
        assert target.policy == groups.canonical(target.policy)
        assert (target.metric, target.stays) == (
            of,
            f"every group keeps about {target.keep_ratio:.3f}",
        )


def test_groups_of_many_sizes_share_one_ratio() -> None:
    found = found_of(Concat(), keep_ratio=(0.05, 1.0))
    groups = found.preparation.graph.groups
    for target in targets_of((0.8, 0.4), "params", found):
        for name, kept in groups.kept_units(target.policy).items():
            assert abs(kept - target.keep_ratio * groups[name].units) <= 0.5 + 1e-9


def test_bits_of_a_space_stay_where_nothing_is_lost() -> None:
    found = found_of(Residual(), "mixed", bits=(4, 8, 32))
    (mixed,) = targets_of((0.5,), "macs", found)
    (plain,) = targets_of((0.5,), "macs", found_of(Residual()))
    assert not mixed.policy.is_quantised
    assert mixed.policy.decisions == plain.policy.decisions


def test_where_bits_alone_reach_a_share_nothing_is_ranked() -> None:
    found = found_of(Residual(), "mixed", bits=(8,))
    with pytest.raises(
        InputError, match=r"0\.9 of the dense size_bytes is reached without removing"
    ):
        targets_of((0.9,), "size_bytes", found)
    (target,) = targets_of((0.2,), "size_bytes", found)
    assert target.policy.removes
    assert target.policy.is_quantised


def test_a_whole_number_is_not_missed_by_rounding() -> None:
    """0.29 × 100 is below 29 in floats."""
    assert int(0.29 * 100) == 28
    assert _bound(0.29, 100) == 29
    assert _bound(0.3, 10) == 3


def test_a_share_out_of_reach_names_the_lowest_that_is_not() -> None:
    found = found_of(Residual(), keep_ratio=(0.5, 1.0))
    with pytest.raises(InputError, match=r"0.01, 0.02 of the dense macs cannot be reached") as told:
        targets_of((0.02, 0.9, 0.01), "macs", found)
    lowest = float(str(told.value).partition("that can be is ")[2].partition(";")[0])
    assert targets_of((lowest,), "macs", found)
    with pytest.raises(InputError, match="cannot be reached"):
        targets_of((lowest - 1e-4,), "macs", found)
