"""The mixed space: units, bits, ranks and recipe in one, by hand and against its contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from autoprune.errors import InputError, PolicyError
from autoprune.graph.block import Block
from autoprune.graph.extent import Extent
from autoprune.graph.group import GroupTable
from autoprune.graph.layer import Layer
from autoprune.policy import LayerDecision, Policy, Recipe
from autoprune.space import SearchSpace
from autoprune.testing import SpaceContract
from autoprune.testing.problem import small_problem
from search_spaces.mixed import Mixed

PLAIN = small_problem().groups
# conv1 to conv5, of which conv4 can be written as a product, and attention behind them.
LAYERS = [
    *(each for each in PLAIN.layers if each.name != "conv4"),
    Layer("conv4", ("weight",), (Extent(0, ((1, ("conv4",)),)),), Extent(0, ((1, ("conv3",)),))),
    Layer("attention", ("in_proj_weight",), (Extent(12),), reads=False),
    Layer("odd", ("weight",), (Extent(4),), reason="a Strange is not among them"),
]
GROUPS = GroupTable(PLAIN.groups, [Block("middle", ("conv2", "conv3"), "conv3", (0, 0))], LAYERS)


class TestMixed(SpaceContract):
    def groups(self) -> GroupTable:
        return GROUPS

    def make(self) -> SearchSpace:
        return Mixed(
            GROUPS,
            keep_ratio=(0.2, 0.9),
            round_to=4,
            bits=(32, 4, 8),
            rank=(1.0, 0.25, 0.75),
            criterion=("l1", "l2"),
            repair=("bn", "both"),
            rounding=("nearest", "adaptive"),
            depth=True,
        )

    def outside(self) -> Sequence[Policy]:
        inside = self.make().decode({x.name: _first(x) for x in self.make().parameters})
        return [
            Policy(),
            replace(inside, recipe=Recipe("fpgm")),
            replace(inside, recipe=Recipe("l1", repair="none")),
            replace(inside, recipe=Recipe("l1", rounding="bias_corrected")),
            _with(inside, "conv1", LayerDecision(6, 8)),
            _with(inside, "conv1", LayerDecision(8, 6)),
            _with(inside, "conv4", LayerDecision(8, 8, rank=11)),
            _with(inside, "odd", LayerDecision(8, 8)),
            _with(inside, "attention", LayerDecision(8, 8)),
            _with(inside, "nowhere", LayerDecision(8, 8)),
        ]


class TestMixedOfFewBits(SpaceContract):
    """Neither 32 bits nor full rank are among what may be chosen."""

    def groups(self) -> GroupTable:
        return GROUPS

    def make(self) -> SearchSpace:
        return Mixed(
            GROUPS,
            bits=(2, 8),
            activation_bits=(4, 8),
            rank=(0.1, 0.5),
            depth=True,
            protect=("first",),
        )

    def outside(self) -> Sequence[Policy]:
        inside = self.make().decode({x.name: _first(x) for x in self.make().parameters})
        return [Policy(), _with(inside, "conv5", LayerDecision(32, 32))]


class TestMixedOfSingleWeights(SpaceContract):
    """Weights leave alone, in patterns, and of two layers in place of one never."""

    def groups(self) -> GroupTable:
        return GROUPS

    def make(self) -> SearchSpace:
        return Mixed(
            GROUPS,
            bits=(8, 32),
            rank=(0.25, 1.0),
            weights=(1.0, "2:4", 0.3, "4x1@0.5"),
            criterion=("l1", "lamp"),
            depth=True,
            protect=("first",),
        )

    def outside(self) -> Sequence[Policy]:
        inside = self.make().decode({x.name: _first(x) for x in self.make().parameters})
        return [
            _with(inside, "conv1", LayerDecision(8, 8, keep_ratio=0.3)),
            _with(inside, "conv2", LayerDecision(8, 8, keep_ratio=0.4)),
            _with(inside, "conv2", LayerDecision(8, 8, pattern="4:8")),
        ]


def test_what_stays_of_weights_is_decoded_by_hand() -> None:
    space = Mixed(GROUPS, bits=(32,), weights=("4x1@0.5", 1.0, 0.25, "2:4"))
    axes = {each.name: each for each in space.parameters if each.name.endswith(":weights")}
    assert axes["conv1:weights"].high == 3
    # Attention is several operations: its weights leave one by one.
    assert axes["attention:weights"].high == 1
    policy = space.decode(values(space, conv1__weights=0, conv2__weights=1, conv3__weights=2))
    assert policy.layer("conv1") == LayerDecision(keep_ratio=0.25)
    assert policy.layer("conv2") == LayerDecision(pattern="2:4")
    assert policy.layer("conv3") == LayerDecision(keep_ratio=0.5, pattern="4x1")
    assert "conv4" not in policy.layers
    assert (
        space.nearest(Policy(layers={"conv1": LayerDecision(keep_ratio=0.2)}))["conv1:weights"] == 0
    )


def _with(policy: Policy, layer: str, decision: LayerDecision) -> Policy:
    return replace(policy, layers={**policy.layers, layer: decision})


def _first(parameter: object) -> object:
    return getattr(parameter, "low", None) if hasattr(parameter, "low") else parameter.options[0]


def values(space: SearchSpace, **changed: object) -> dict[str, object]:
    """The last of everything, but for what is given; colons are written as two underlines."""
    highest = {x.name: x.high if hasattr(x, "high") else x.options[0] for x in space.parameters}
    return {**highest, **{name.replace("__", ":"): each for name, each in changed.items()}}


def test_bits_and_ranks_are_decoded_by_hand() -> None:
    space = Mixed(GROUPS, bits=(8, 32, 4, 16), rank=(0.5, 1.0))
    policy = space.decode(values(space, conv1__bits=0, conv2__bits=1, conv3__bits=2, conv4__rank=0))
    assert policy.layers == {
        "conv1": LayerDecision(4, 8),
        "conv2": LayerDecision(8, 8),
        "conv3": LayerDecision(16, 16),
        "conv4": LayerDecision(rank=6),  # half of 12 outputs, which are fewer than 32 inputs
    }
    assert not policy.decisions
    # What attention reads stays as it is, and nothing is said of what cannot be quantised.
    assert space.decode(values(space, attention__bits=0)).layers["attention"] == LayerDecision(4)
    assert not any(each.name.startswith("odd") for each in space.parameters)


def test_whole_numbers_read_by_kernels_that_are_none_have_no_effect() -> None:
    space = Mixed(GROUPS, bits=(8, 32), activation_bits=(4, 8))
    several = {
        GROUPS.canonical(
            space.decode(values(space, conv1__bits=bits, conv1__activation_bits=reads))
        )
        for bits in (0, 1)
        for reads in (0, 1)
    }
    assert {each.layer("conv1") for each in several} == {
        LayerDecision(),
        LayerDecision(8, 4),
        LayerDecision(8, 8),
    }


def test_a_rank_counts_while_it_saves_something() -> None:
    space = Mixed(GROUPS, keep_ratio=(0.1, 1.0), rank=(0.5, 1.0))
    kept = {"conv3": 32, "conv4": 12}
    whole = GROUPS.canonical(space.decode(values(space, conv4__rank=0)))
    assert whole.layer("conv4").rank == 6  # 6 · 44 < 12 · 32
    assert 6 * sum(kept.values()) < 12 * 32
    narrow = GROUPS.canonical(space.decode(values(space, conv4__rank=0, conv4=5)))
    assert narrow.layer("conv4").rank is None  # seven outputs are left: 6 · 39 > 7 · 32
    assert space.encode(narrow)["conv4:rank"] == 1


def test_layers_of_a_dropped_block_have_no_say() -> None:
    space = Mixed(GROUPS, depth=True)
    one, other = (
        GROUPS.canonical(space.decode(values(space, middle__block="dropped", conv2__bits=bits)))
        for bits in (0, 1)
    )
    assert one == other
    assert "conv2" not in one.layers


RECIPE = {"rounding": "adaptive", "repair": "both", "recovery": "rigl"}


def test_recipes_that_change_nothing_are_left_out() -> None:
    space = Mixed(
        GROUPS,
        bits=(8, 32),
        rounding=("nearest", "adaptive"),
        repair=("bn", "both"),
        recovery=("finetune", "rigl"),
    )
    chosen = {f"recipe__{name}": x for name, x in RECIPE.items()}
    plain = GROUPS.canonical(space.decode(values(space, **chosen)))
    assert plain.recipe == Recipe("l1")
    rounded = GROUPS.canonical(space.decode(values(space, conv1__bits=0, **chosen)))
    assert rounded.recipe == Recipe("l1", rounding="adaptive", recovery="rigl")
    pruned = GROUPS.canonical(space.decode(values(space, conv1=3, **chosen)))
    assert pruned.recipe == Recipe("l1", repair="both", recovery="rigl")


def test_ends_and_patterns_are_protected() -> None:
    space = Mixed(GROUPS, bits=(4, 8), rank=(0.5, 1.0), protect=("first", "last", "conv[34]"))
    names = {each.name for each in space.parameters if ":" in each.name}
    assert names == {"conv2:bits", "conv5:bits"}
    policy = space.decode({each.name: 0 for each in space.parameters})
    assert policy.layers["conv1"] == policy.layers["conv4"] == LayerDecision(8, 8)
    assert policy.layers["attention"] == LayerDecision(8)
    assert policy.layers["conv2"] == LayerDecision(4, 8)


def test_the_nearest_bits_are_nearest_by_their_ratio() -> None:
    space = Mixed(GROUPS, bits=(4, 8, 32), rank=(0.25, 1.0))
    layers = {
        "conv1": LayerDecision(6, 8),
        "conv2": LayerDecision(16, 16),
        "conv4": LayerDecision(rank=4),
    }
    found = space.nearest(Policy(layers=layers))
    assert found["conv1:bits"] == 1  # 6 is as far from 8 as from 4.5
    assert found["conv2:bits"] == 2  # 16 is as far from 8 as from 32: the larger
    assert found["conv3:bits"] == 2
    assert found["conv4:rank"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": (1, 8)}, "bits must be some of 2, 3, 4, 5, 6, 7, 8, 16, 32; given: \\[1, 8\\]"),
        ({"bits": ()}, "bits must be some of"),
        ({"activation_bits": (12,)}, "activation_bits must be some of"),
        ({"rank": (0.0, 1.0)}, "shares of the full rank"),
        ({"weights": ()}, "weights must name what may stay"),
        ({"weights": (0.0,)}, "weights: keep_ratio must be in"),
        ({"weights": ("4:2",)}, "weights: pattern must be N:M"),
        ({"weights": ("4x1",)}, "give the share of blocks that stay, as in '4x1@0.5'"),
        ({"weights": ("4x1@most",)}, "weights: keep_ratio must be in"),
        ({"protect": ("conv9",)}, "protect pattern 'conv9' matches no layer"),
    ],
)
def test_bad_options_are_named(options: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixed(GROUPS, **options)  # type: ignore[arg-type]


def test_a_network_without_layers_has_no_mixed_space() -> None:
    with pytest.raises(InputError, match="use space: layerwise"):
        Mixed(GroupTable(PLAIN.groups))


@pytest.mark.parametrize(
    ("decision", "layer", "message"),
    [
        (LayerDecision(8, 8), "odd", "cannot be quantised: a Strange"),
        (LayerDecision(8, 8), "attention", "give its weight_bits alone"),
        (LayerDecision(rank=3), "conv1", "has no rank"),
        (LayerDecision(8, 8), "conv11", "does not exist; .*did you mean 'conv1'"),
    ],
)
def test_what_cannot_be_done_with_a_layer_is_said(
    decision: LayerDecision, layer: str, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        GROUPS.canonical(Policy(layers={layer: decision}))
