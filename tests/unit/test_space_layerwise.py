"""The layerwise space: levels by hand, selection by patterns, errors that teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.errors import InputError, PolicyError
from autoprune.graph.block import Block
from autoprune.graph.group import GroupTable, PrunableGroup, Slice
from autoprune.policy import LayerDecision, Policy
from autoprune.space import SearchSpace
from autoprune.testing import SpaceContract
from autoprune.testing.problem import small_problem
from search_spaces.layerwise import Layerwise


def table(*units: int) -> GroupTable:
    """Groups layer1.conv1, layer1.conv2, layer2.conv1, ... and a frozen classifier."""
    names = [f"layer{index // 2 + 1}.conv{index % 2 + 1}" for index in range(len(units))]
    prunable = [PrunableGroup(name, count, ()) for name, count in zip(names, units, strict=True)]
    return GroupTable([*prunable, PrunableGroup("fc", 10, (), reason="makes the outputs")])


def counts(space: Layerwise, groups: GroupTable, name: str) -> list[int]:
    """What every index of a group's parameter keeps, read off the decoded policies."""
    first = {each.name: each.low for each in space.parameters}
    (parameter,) = (each for each in space.parameters if each.name == name)
    indices = range(parameter.low, parameter.high + 1)
    return [groups.kept_units(space.decode({**first, name: index}))[name] for index in indices]


class TestLayerwise(SpaceContract):
    def make(self) -> SearchSpace:
        return Layerwise(self.groups(), keep_ratio=(0.2, 0.9), round_to=4)

    def outside(self) -> Sequence[Policy]:
        inside = {"conv1": 4 / 16, "conv2": 8 / 24, "conv3": 16 / 32, "conv4": 4 / 12}
        return [
            Policy(),
            Policy.from_keep_ratios(inside, criterion="fpgm"),
            Policy.from_keep_ratios({**inside, "conv1": 5 / 16}),
            Policy.from_keep_ratios({**inside, "conv5": 0.5}),
            Policy.from_keep_ratios({**inside, "nowhere": 0.5}),
        ]


class TestLayerwiseOfSomeGroups(SpaceContract):
    def make(self) -> SearchSpace:
        return Layerwise(self.groups(), include=("conv[12]", "conv4"), exclude=("conv4",))

    def outside(self) -> Sequence[Policy]:
        return [
            Policy.from_keep_ratios({"conv1": 0.5, "conv4": 0.5}),
            Policy.from_keep_ratios({"conv3": 31 / 32}),
            Policy.from_keep_ratios({"conv1": 1 / 16}),
        ]


class TestLayerwiseWithDepth(SpaceContract):
    def groups(self) -> GroupTable:
        table = small_problem().groups
        frozen = Block("last", ("conv4",), "conv4", (0,), reason="it must stay")
        return GroupTable(table, [Block("middle", ("conv2", "conv3"), "conv3", (0, 0)), frozen])

    def make(self) -> SearchSpace:
        return Layerwise(self.groups(), keep_ratio=(0.1, 0.9), depth=True)

    def outside(self) -> Sequence[Policy]:
        return [Policy(dropped=frozenset({"last"})), Policy(dropped=frozenset({"nowhere"}))]


def test_the_layerwise_space_leaves_layers_as_they_are() -> None:
    groups = small_problem().groups
    policy = Policy(layers={"conv1": LayerDecision(8, 8)})
    with pytest.raises(PolicyError, match="leaves layers as they are"):
        Layerwise(groups).encode(policy)
    assert Layerwise(groups).contains(Policy())


def test_blocks_stay_where_the_space_has_no_depth() -> None:
    groups = TestLayerwiseWithDepth().groups()
    policy = Policy(dropped=frozenset({"middle"}))
    with pytest.raises(PolicyError, match="leaves out no blocks"):
        Layerwise(groups).encode(policy)
    assert Layerwise(groups, depth=True).encode(policy)["middle:block"] == "dropped"


def test_groups_within_a_dropped_block_have_no_say() -> None:
    units = np.arange(4)[:, None]
    inner = PrunableGroup("inner", 4, (Slice("inner.weight", 0, 4, units, "out"),))
    groups = GroupTable([inner], [Block("branch", ("inner",), "inner", (0,))])
    policy = replace(Policy.from_keep_ratios({"inner": 0.5}), dropped=frozenset({"branch"}))
    assert groups.canonical(policy) == Policy(dropped=frozenset({"branch"}))
    assert groups.canonical(Policy.from_keep_ratios({"inner": 0.5})).keep_ratio("inner") == 0.5


@pytest.mark.parametrize(
    ("units", "keep_ratio", "round_to", "levels"),
    [
        (4, (0.1, 1.0), 1, [1, 2, 3, 4]),
        (10, (0.1, 1.0), 4, [4, 8, 10]),
        (12, (0.1, 1.0), 4, [4, 8, 12]),
        (10, (0.1, 0.9), 4, [4, 8]),
        (64, (0.25, 0.75), 16, [16, 32, 48]),
        (64, (0.26, 0.74), 16, [32]),
        (4, (0.1, 1.0), 8, [4]),
        (6, (0.05, 0.1), 1, [1]),
        (100, (0.55, 0.56), 1, [55, 56]),  # 0.55 * 100 is 55.00000000000001
        (100, (0.29, 0.29), 1, [29]),  # 0.29 * 100 is 28.999999999999996
        (5, (1.0, 1.0), 2, [5]),
    ],
)
def test_levels_by_hand(
    units: int, keep_ratio: tuple[float, float], round_to: int, levels: list[int]
) -> None:
    groups = table(units)
    space = Layerwise(groups, keep_ratio=keep_ratio, round_to=round_to)
    assert counts(space, groups, "layer1.conv1") == levels


def test_decoded_policies_are_canonical_and_name_the_criterion() -> None:
    groups = table(8, 3)
    space = Layerwise(groups, keep_ratio=(0.25, 1.0), round_to=2, criterion="fpgm")
    policy = space.decode({"layer1.conv1": 1, "layer1.conv2": 1})
    assert policy == Policy.from_keep_ratios({"layer1.conv1": 0.5}, criterion="fpgm")
    assert policy == groups.canonical(policy)
    assert space.encode(policy) == {"layer1.conv1": 1, "layer1.conv2": 1}


def test_encode_reads_units_not_digits() -> None:
    space = Layerwise(table(3, 3))
    spelled = Policy.from_keep_ratios({"layer1.conv1": 0.333, "layer1.conv2": 1.0, "fc": 1.0})
    assert space.encode(spelled) == {"layer1.conv1": 0, "layer1.conv2": 2}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy.from_keep_ratios({"layer1.conv1": 0.5}, "l2"), "ranks by 'l1', the policy by 'l2'"),
        (Policy.from_keep_ratios({"layer1.conv1": 3 / 8}), "cannot keep 3 units; allowed: 2, 4, 6"),
        (Policy.from_keep_ratios({"layer2.conv1": 0.5}), "outside the space and must stay whole"),
        (Policy.from_keep_ratios({"layer3.conv1": 0.5}), "allowed: layer1.conv1, layer1.conv2"),
        (Policy.from_keep_ratios({"fc": 0.5}), "must stay whole: makes the outputs"),
    ],
)
def test_encode_says_why_a_policy_is_outside(policy: Policy, message: str) -> None:
    space = Layerwise(table(8, 8, 8), round_to=2, exclude=("layer2.*",))
    with pytest.raises(PolicyError, match=message):
        space.encode(policy)


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ((), (), ["layer1.conv1", "layer1.conv2", "layer2.conv1"]),
        (("*.conv1",), (), ["layer1.conv1", "layer2.conv1"]),
        ((), ("layer1*",), ["layer2.conv1"]),
        (("layer1*", "layer2*"), ("*.conv1",), ["layer1.conv2"]),
        (("*",), ("fc",), ["layer1.conv1", "layer1.conv2", "layer2.conv1"]),
    ],
)
def test_patterns_choose_groups(
    include: tuple[str, ...], exclude: tuple[str, ...], chosen: list[str]
) -> None:
    space = Layerwise(table(8, 8, 8), include=include, exclude=exclude)
    assert [each.name for each in space.parameters] == chosen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_ratio": (0.0, 1.0)}, "0 < low <= high <= 1"),
        ({"keep_ratio": (0.5, 0.4)}, "0 < low <= high <= 1"),
        ({"keep_ratio": (0.5, 1.1)}, "0 < low <= high <= 1"),
        ({"round_to": 0}, "at least 1"),
        ({"include": ("layr1*",)}, "matches no group; allowed: fc, layer1.conv1, layer1.conv2"),
        ({"exclude": ("conv9",)}, "exclude pattern 'conv9' matches no group"),
        ({"include": ("fc",)}, r"no prunable group is left.*fc \(makes the outputs\)"),
        ({"exclude": ("layer*",)}, "prunable: layer1.conv1, layer1.conv2"),
        (
            {"keep_ratio": (0.1, 0.8), "round_to": 8},
            "'layer1.conv1' has 8 units, and no multiple of 8 lies between 1 and 6",
        ),
    ],
)
def test_unusable_options_are_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layerwise(table(8, 8), **options)  # type: ignore[arg-type]
