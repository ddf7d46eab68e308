"""Discovery: the groups of small networks, checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError, PolicyError, RunError
from autoprune.graph.network import NetworkGraph
from autoprune.policy import Policy
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from tests.networks import Chain, Concat, Depthwise, Residual, built

Sides = dict[tuple[str, str], list[list[int]]]


def sides(kind: type[nn.Module], group: str) -> Sides:
    network, example = built(kind)
    found = discover(network, example).groups[group]
    kernels = [x for x in found.slices if x.tensor.endswith(".weight")]
    return {(x.module, x.role): x.entries.tolist() for x in kernels}


def column(count: int, offset: int = 0) -> list[list[int]]:
    return [[offset + index] for index in range(count)]


def test_a_chain() -> None:
    expected = {("a", "out"): column(6), ("norm", "along"): column(6), ("b", "in"): column(6)}
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
        ("norm", "along"): column(8),
        ("project", "in"): column(8),
    }
    assert sides(Depthwise, "expand") == expected


def test_concatenation_keeps_offsets() -> None:
    assert sides(Concat, "left") == {("left", "out"): column(4), ("mix", "in"): column(4)}
    assert sides(Concat, "right") == {("right", "out"): column(6), ("mix", "in"): column(6, 4)}


@pytest.mark.parametrize("kind", [Chain, Residual, Depthwise, Concat])
def test_the_proof_freezes_the_output_and_nothing_else(kind: type[nn.Module]) -> None:
    network, example = built(kind)
    proven = prove(network, discover(network, example).groups, example).groups
    assert [group.name for group in proven if group.is_frozen] == ["out"]
    assert "output" in (proven["out"].reason or "")


class GroupedNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.single = nn.Conv2d(8, 1, 1)
        self.out = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.single(self.grouped(self.a(x))).mean((2, 3)))


def test_a_grouped_convolution_loses_blocks_or_places_within_them() -> None:
    network, example = built(GroupedNetwork)
    groups = prove(network, discover(network, example).groups, example).groups
    units = {group.name: group.units for group in groups.prunable}
    assert units == {"a:blocks": 2, "a": 4, "grouped": 4}
    assert groups["single"].reason == "it has a single unit"


class Softmaxed(nn.Module):
    """Mixes its channels without a layer: a removed channel changes all others."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).softmax(dim=1).mean((2, 3)))


def test_units_that_a_softmax_weighs_against_each_other_stay() -> None:
    network, example = built(Softmaxed)
    groups = discover(network, example).groups
    assert "weighs its units against each other" in (groups["a"].reason or "")


class Between(nn.Module):
    """Two convolutions with a layer in between."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.layer = layer
        self.b = nn.Conv2d(8, 4, 1)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.layer(self.a(x))).mean((2, 3)))


ATTENTION = ["layer.attention:heads", "layer.attention:width", "layer.attention:values", "b"]


def names(network: nn.Module) -> list[str]:
    example = torch.randn(2, 3, 4, 4)
    groups = prove(network, discover(network, example).groups, example).groups
    return [group.name for group in groups.prunable]


@pytest.mark.parametrize(
    ("layer", "prunable"),
    [
        (nn.PReLU(8), ["a", "b"]),
        (nn.GroupNorm(2, 8), ["a:blocks", "a", "b"]),
        (nn.InstanceNorm2d(8, affine=True), ["a", "b"]),
        (nn.GroupNorm(2, 8, affine=False), ["b"]),
        (nn.InstanceNorm2d(8), ["a", "b"]),
        (nn.MultiheadAttention(8, 2), ATTENTION),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_between_two_convolutions(layer: nn.Module, prunable: list[str]) -> None:
    if isinstance(layer, nn.MultiheadAttention):
        layer = _OverPixels(layer)
    network = Between(layer).eval().requires_grad_(False)
    assert names(network) == prunable


class _OverPixels(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).permute(2, 0, 1)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return mixed.permute(1, 2, 0).reshape(x.shape)


def test_the_model_is_not_changed_by_tracing() -> None:
    network, example = built(Chain)
    network.get_submodule("norm").train()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    discover(network, example)
    assert not any(each.requires_grad for each in network.parameters())
    assert [name for name, module in network.named_modules() if module.training] == ["norm"]
    assert not any(module._forward_hooks for module in network.modules())
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(5, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x.mean((2, 3)) if x.mean() > 0 else x.amax((2, 3))


def test_models_that_do_not_run_or_read_values_are_input_errors() -> None:
    with pytest.raises(ModelError, match=r"does not run on an input of shape \(2, 3, 8, 8\)"):
        discover(*built(Failing))
    with pytest.raises(ModelError, match="the forward of Deciding reads them"):
        discover(*built(Deciding))


def test_a_graph_survives_json() -> None:
    graph = discover(*built(Chain))
    body = graph.to_json()
    again = NetworkGraph.from_json(json.loads(json.dumps(body)))
    assert again.to_json() == body
    assert again.foldable == graph.foldable == (("a", "norm"),)
    policy = Policy.from_keep_ratios({"a": 0.5, "b": 0.5})
    assert again.costs.costs(policy) == graph.costs.costs(policy)


def test_a_graph_of_another_version_is_refused() -> None:
    body = discover(*built(Chain)).to_json()
    with pytest.raises(RunError, match=r"another version of autoprune \(format 1"):
        NetworkGraph.from_json({key: each for key, each in body.items() if key != "format"})


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
