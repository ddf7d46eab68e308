"""Layers as the tables know them: what can be quantised, and what bits and ranks cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autoprune.errors import PolicyError
from autoprune.graph.cost import COLUMNS, Costs, CostTable
from autoprune.graph.layer import Layer
from autoprune.graph.network import NetworkGraph
from autoprune.policy import BITS, LayerDecision, Policy, Recipe
from autoprune.tracing.discovery import discover


class Zoo(nn.Module):
    """One layer of every kind, each with a way of its own to hold kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 6, 1, bias=False)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.token = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.narrow = weight_norm(nn.Linear(5, 4))
        self.twin = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.twin.weight
        self.free = nn.Parameter(torch.ones(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.point(torch.relu(self.norm(self.conv(x)))))
        x = x.flatten(2).transpose(1, 2) + self.token.weight[0]
        x = self.narrow(self.lstm(x)[0])
        x = self.attention(x, x, x)[0]
        return self.head(self.other(self.twin(x.mean(1))) @ self.free)


@pytest.fixture(scope="module")
def graph() -> NetworkGraph:
    torch.manual_seed(0)
    return discover(Zoo(), torch.randn(2, 3, 8, 8))


def layer(graph: NetworkGraph, name: str) -> Layer:
    return next(each for each in graph.groups.layers if each.name == name)


def test_kernels_are_found_with_what_can_be_done_about_them(graph: NetworkGraph) -> None:
    found = {each.name: each for each in graph.groups.layers if each.reason is None}
    assert {name: each.kernels for name, each in found.items()} == {
        "conv": ("weight",),
        "point": ("weight",),
        "depth": ("weight",),
        "lstm": ("weight_ih_l0", "weight_hh_l0"),
        "attention": ("in_proj_weight",),
        "attention.out_proj": ("weight",),
        "head": ("weight",),
    }
    # What they read is their own affair only where they are one operation that is called.
    assert {name for name, each in found.items() if each.reads} == {
        "conv",
        "point",
        "depth",
        "head",
    }
    # Products of two layers: 1×1 convolutions in one group, and linear layers.
    assert {name for name, each in found.items() if each.inputs} == {"point", "head"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("twin", "shared with another layer"),
        ("", "Zoo is none of"),
        ("token", "Embedding is none of"),
        ("narrow.parametrizations.weight", "made from other parameters"),
    ],
)
def test_kernels_that_stay_as_they_are_say_why(graph: NetworkGraph, name: str, words: str) -> None:
    assert words in (layer(graph, name).reason or "")
    with pytest.raises(PolicyError, match="cannot be quantised"):
        graph.groups.canonical(Policy(layers={name: LayerDecision(8, 32)}))


def test_bits_of_one_layer_by_hand(graph: NetworkGraph) -> None:
    dense = graph.costs.costs(Policy())
    table = graph.costs

    def saved(decision: LayerDecision) -> Costs:
        costs = table.costs(Policy(layers={"head": decision}))
        return Costs(*(getattr(dense, x) - getattr(costs, x) for x in COLUMNS))

    # 12 weights, 3 outputs with a step of four bytes, 8 bytes for step and zero of the inputs.
    assert saved(LayerDecision(8, 8)).size_bytes == 48 - (12 + 12 + 8)
    assert saved(LayerDecision(3, 32)).size_bytes == 48 - (math.ceil(12 * 3 / 8) + 12)
    assert saved(LayerDecision(16, 16)).size_bytes == 48 - 24
    assert saved(LayerDecision(8, 4)).bitops == 12 * (32 * 32 - 8 * 4)
    assert saved(LayerDecision(8, 4)).macs == saved(LayerDecision(8, 4)).params == 0
    # Whole numbers that float kernels read are none.
    assert table.costs(Policy(layers={"head": LayerDecision(32, 8)})) == dense


def test_a_rank_by_hand(graph: NetworkGraph) -> None:
    dense, table = graph.costs.costs(Policy()), graph.costs
    # 8 → 2 → 6 channels at 64 places instead of 8 → 6.
    costs = table.costs(Policy(layers={"point": LayerDecision(rank=2)}))
    assert dense.params - costs.params == 48 - 2 * (8 + 6)
    assert dense.macs - costs.macs == 64 * (48 - 28)
    assert costs.activation_bytes - dense.activation_bytes == 4 * 64 * 2
    # 4 · (8 + 6) weights are more than 48: it stays one layer.
    useless = Policy(layers={"point": LayerDecision(rank=4)})
    assert table.costs(useless) == dense
    assert graph.groups.canonical(useless) == Policy()


def bytes_of(graph: NetworkGraph, policy: Policy) -> tuple[float, float]:
    """Bytes and bit operations, layer by layer from the costs of a network without bits."""
    bare = replace(policy, layers={})
    parts, units = graph.costs.by_module(bare), graph.groups.units(policy)
    size, operations = 0.0, 0.0
    for name, costs in parts.items():
        decision = policy.layer(name)
        size += costs.size_bytes
        known = [each for each in graph.groups.layers if each.name == name]
        kernels = sum(x.macs for x in graph.costs.rows if x.module == name and x.params)
        if not known or not kernels or known[0].reason:
            operations += costs.macs * 32 * 32
            continue
        bits = decision.weight_bits
        reads = decision.activation_bits if bits <= 8 or decision.activation_bits > 8 else bits
        own = [x for x in graph.costs.rows if x.module == name and x.params and x.macs]
        for row in own:
            weights = row.constant * math.prod(x.length(units) for x in row.extents)
            size += math.ceil(weights * bits / 8) - 4 * weights
            operations += weights * row.macs * bits * reads
        size += 4 * known[0].width(units) * (bits <= 8) + 8 * (reads <= 8)
        others = [x for x in graph.costs.rows if x.module == name and x.macs and not x.params]
        for row in others:
            count = row.constant * math.prod(x.length(units) for x in row.extents)
            operations += count * row.macs * 32 * 32
    return size, operations


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_the_table_agrees_with_a_slow_twin(graph: NetworkGraph, data: st.DataObject) -> None:
    layers = {}
    for each in graph.groups.layers:
        if each.reason is None:
            reads = data.draw(st.sampled_from(BITS)) if each.reads else 32
            layers[each.name] = LayerDecision(data.draw(st.sampled_from(BITS)), reads)
    ratios = {x.name: data.draw(st.floats(0.1, 1.0)) for x in graph.groups.prunable}
    policy = replace(Policy.from_keep_ratios(ratios), layers=layers)
    costs = graph.costs.costs(policy)
    assert (costs.size_bytes, costs.bitops) == pytest.approx(bytes_of(graph, policy))
    # The canonical form costs the same, and a table that was stored tells the same.
    assert graph.costs.costs(graph.groups.canonical(policy)) == costs
    again = NetworkGraph.from_json(graph.to_json())
    assert again.costs.costs(policy) == costs
    assert isinstance(again.costs, CostTable)


def test_policies_keep_what_is_decided_about_layers() -> None:
    policy = Policy(
        recipe=Recipe("l2", repair="both", rounding="adaptive"),
        layers={"b": LayerDecision(4, 8, rank=3), "a": LayerDecision(16, 16)},
    )
    assert Policy.from_json(policy.to_json()) == policy
    assert list(policy.layers) == ["a", "b"]
    assert policy.to_json()["layers"] == {
        "a": {"weight_bits": 16, "activation_bits": 16},
        "b": {"weight_bits": 4, "activation_bits": 8, "rank": 3},
    }
    # Policies without bits are written as they were before there were any.
    assert set(Policy().to_json()) == {"groups", "recipe"}
    assert policy.is_quantised
    assert policy.factorises
    assert not policy.removes


@pytest.mark.parametrize("given", [{"weight_bits": 9}, {"activation_bits": 1}, {"rank": 0}])
def test_decisions_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(PolicyError, match="given"):
        LayerDecision(**given)
