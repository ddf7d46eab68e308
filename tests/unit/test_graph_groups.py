"""Discovery: the groups of small networks, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, PolicyError
from autoprune.graph.discovery import discover
from autoprune.graph.network import NetworkGraph
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.policy import Policy
from autoprune.surgery.proof import prove
from tests.networks import Chain, Concat, Depthwise, Residual, built

Sides = dict[tuple[str, str], list[list[int]]]


def sides(kind: type[nn.Module], group: str) -> Sides:
    network, example = built(kind)
    found = discover(network, example).groups[group]
    return {(x.module, x.side): x.entries.tolist() for x in found.slices}


def column(count: int, offset: int = 0) -> list[list[int]]:
    return [[offset + index] for index in range(count)]


def test_a_chain() -> None:
    expected = {("a", "out"): column(6), ("norm", "out"): column(6), ("b", "in"): column(6)}
    assert sides(Chain, "a") == expected


def test_a_flatten_with_spatial_extent() -> None:
    blocks = np.arange(64).reshape(4, 16).tolist()
    assert sides(Chain, "b") == {("b", "out"): column(4), ("hidden", "in"): blocks}


def test_a_residual_stage_is_one_group_named_after_its_first_layer() -> None:
    expected = {
        ("stem", "out"): column(8),
        ("one", "in"): column(8),
        ("two", "out"): column(8),
        ("out", "in"): column(8),
    }
    assert sides(Residual, "stem") == expected


def test_a_depthwise_convolution_follows_its_input() -> None:
    expected = {
        ("expand", "out"): column(8),
        ("depth", "out"): column(8),
        ("norm", "out"): column(8),
        ("project", "in"): column(8),
    }
    assert sides(Depthwise, "expand") == expected


def test_concatenation_keeps_offsets() -> None:
    assert sides(Concat, "left") == {("left", "out"): column(4), ("mix", "in"): column(4)}
    assert sides(Concat, "right") == {("right", "out"): column(6), ("mix", "in"): column(6, 4)}


@pytest.mark.parametrize("kind", [Chain, Residual, Depthwise, Concat])
def test_the_proof_freezes_the_output_and_nothing_else(kind: type[nn.Module]) -> None:
    network, example = built(kind)
    proven = prove(network, discover(network, example).groups, example)
    assert [group.name for group in proven if group.is_frozen] == ["out"]
    assert "output" in (proven["out"].reason or "")


def test_padded_shortcuts_are_quarantined_and_inner_channels_are_not() -> None:
    network, example = CifarResNet(20).eval(), torch.randn(2, 3, 32, 32)
    proven = prove(network, discover(network, example).groups, example)
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert [group.name for group in proven.prunable] == inner
    assert "conv1" in {group.name for group in proven if group.is_frozen}
    assert all(group.reason for group in proven if group.is_frozen)


class GroupedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.single = nn.Conv2d(8, 1, 1)
        self.out = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.single(self.grouped(self.a(x))).mean((2, 3)))


def test_what_cannot_be_cut_is_frozen_with_its_reason() -> None:
    network, example = built(GroupedNetwork)
    groups = prove(network, discover(network, example).groups, example)
    assert "grouped convolution" in (groups["a"].reason or "")
    assert groups["single"].reason == "it has a single unit"
    assert not groups.prunable


class Softmaxed(nn.Module):
    """Mixes its channels without a layer: a removed channel changes all others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).softmax(dim=1).mean((2, 3)))


def test_the_proof_compares_values_not_only_shapes() -> None:
    network, example = built(Softmaxed)
    groups = prove(network, discover(network, example).groups, example)
    assert "outputs differ" in (groups["a"].reason or "")


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(5, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.a(x).detach().numpy()).mean((2, 3))


def test_models_that_do_not_run_or_trace_are_input_errors() -> None:
    with pytest.raises(ModelError, match="does not run on an input of shape"):
        discover(*built(Failing))
    with pytest.raises(ModelError, match="cannot be traced"):
        discover(*built(Untraceable))


def test_a_graph_survives_json() -> None:
    network, example = built(Concat)
    graph = discover(network, example)
    again = NetworkGraph.from_json(graph.to_json())
    assert again.to_json() == graph.to_json()
    policy = Policy.from_keep_ratios({"left": 0.5})
    assert again.costs.costs(policy) == graph.costs.costs(policy)


def test_canonical_policies_of_equal_networks_are_equal() -> None:
    groups = discover(*built(Chain)).groups
    one = groups.canonical(Policy.from_keep_ratios({"a": 0.5, "hidden": 1.0}))
    two = groups.canonical(Policy.from_keep_ratios({"a": 0.52}))
    assert one == two
    assert one.sha256 == two.sha256
    assert one.keep_ratio("a") == 3 / 6
    assert groups.kept_units(Policy.from_keep_ratios({"a": 0.001}))["a"] == 1
    with pytest.raises(PolicyError, match="did you mean 'hidden'"):
        groups.canonical(Policy.from_keep_ratios({"hiden": 0.5}))
