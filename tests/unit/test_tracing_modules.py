"""Layers with groups of their own: attention, norms, embeddings, shared layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autoprune.policy import Policy
from tests.carving import (
    Network,
    assert_exact,
    column,
    difference,
    entries,
    lively,
    outputs_of,
    places,
    planned,
)

_GENERATOR = torch.Generator().manual_seed(2)
TOKENS = torch.randn(2, 5, 6, generator=_GENERATOR, dtype=torch.float64)
WORDS = torch.randint(0, 11, (2, 5), generator=_GENERATOR)


def units(network: nn.Module, example: Any, **given: Any) -> dict[str, int]:
    """Check that carving is exact and return the units of every prunable group."""
    groups = assert_exact(lively(network), example, **given).groups
    return {group.name: group.units for group in groups.prunable}


class Mixed(nn.Module):
    """A layer, attention, and a layer."""

    def __init__(self, *, crossed: bool = False, **given: Any) -> None:
        super().__init__()
        self.a, self.crossed = nn.Linear(6, 8), crossed
        self.attention = nn.MultiheadAttention(8, 2, **given)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        made = self.a(x)
        if not self.attention.batch_first:
            made = made.transpose(0, 1)
        others = (x, x[..., :5]) if self.crossed else (made, made)
        made, _ = self.attention(made, *others, need_weights=False, **masks)
        return self.out(made if self.attention.batch_first else made.transpose(0, 1))


HEADS = {
    "a": 8,
    "attention:heads": 2,
    "attention:width": 4,
    "attention:values": 4,
    "attention.out_proj": 8,
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_loses_heads_widths_and_values(batch_first: bool, bias: bool) -> None:
    network = lively(Mixed(batch_first=batch_first, bias=bias))
    plan = assert_exact(network, TOKENS)
    groups = plan.groups
    found = {group.name: group.units for group in groups.prunable}
    assert found == HEADS
    assert entries(groups, "attention:heads", "attention.in_proj_weight", 0) == [
        [*range(start, start + 4), *range(start + 8, start + 12), *range(start + 16, start + 20)]
        for start in (0, 4)
    ]
    assert entries(groups, "attention:width", "attention.in_proj_weight", 0) == [
        [place, place + 4, place + 8, place + 12] for place in range(4)
    ]
    assert entries(groups, "attention:values", "attention.in_proj_weight", 0) == [
        [place + 16, place + 20] for place in range(4)
    ]
    assert entries(groups, "attention:values", "attention.out_proj.weight", 1) == [
        [place, place + 4] for place in range(4)
    ]


def test_attention_with_sources_of_other_widths() -> None:
    network = lively(Mixed(batch_first=True, crossed=True, kdim=6, vdim=5))
    groups = assert_exact(network, TOKENS).groups
    found = {group.name: group.units for group in groups.prunable}
    assert found == HEADS
    assert entries(groups, "attention:heads", "attention.q_proj_weight", 0) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert places(groups)["attention:values"][1] == [
        "attention.v_proj_weight 0",
        "attention.in_proj_bias 0",
        "attention.out_proj.weight 1",
    ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_attention_with_masks(dtype: torch.dtype) -> None:
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    if dtype != torch.bool:
        causal, padding = (
            torch.zeros(each.shape, dtype=dtype).masked_fill(each, float("-inf"))
            for each in (causal, padding)
        )
    network = Mixed(batch_first=True)
    example = {"x": TOKENS, "attn_mask": causal, "key_padding_mask": padding}
    # A mask of all pairs has no batch to take one sample of.
    assert units(network, example, counts_macs=False) == HEADS


def test_a_mask_for_every_head_keeps_the_heads() -> None:
    network = Mixed(batch_first=True)
    example = {"x": TOKENS, "attn_mask": torch.zeros(4, 5, 5, dtype=torch.float64)}
    found = units(network, example, counts_macs=False)
    assert "attention:heads" not in found
    assert found["attention:values"] == 4


def test_pruned_attention_keeps_its_parameters_names_and_returns_weights() -> None:
    network = lively(
        Network(
            lambda net, x: net.attention(x, x, x, average_attn_weights=False),
            attention=nn.MultiheadAttention(6, 3, batch_first=True),
        )
    )
    plan, _ = planned(network, TOKENS)
    found = [group.name for group in plan.groups.prunable]
    assert not any(name.endswith("heads") for name in found)  # the weights of heads are returned
    policy = Policy.from_keep_ratios(dict.fromkeys(found, 0.5))
    carved, masked = plan.carve(policy), plan.mask(policy)
    assert list(carved.state_dict()) == list(network.state_dict())
    assert difference(outputs_of(carved, TOKENS), outputs_of(masked, TOKENS)) <= 1e-9


def test_an_encoder_layer_of_pytorch() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 7, batch_first=True, activation="gelu")
    assert units(nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), TOKENS) == {
        "0": 8,
        "1.self_attn:heads": 2,
        "1.self_attn:width": 4,
        "1.self_attn:values": 4,
        "1.linear1": 7,
    }


def fused(net: Network, x: Tensor) -> Tensor:
    count, length, _ = x.shape
    made = net.qkv(x).reshape(count, length, 3, net.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = made.unbind(0)
    weights = (q @ k.transpose(-2, -1) * net.scale).softmax(-1)
    return net.out((weights @ v).transpose(1, 2).flatten(2))


def test_a_fused_kernel_that_is_split_by_its_number_of_heads() -> None:
    network = Network(fused, qkv=nn.Linear(6, 24), out=nn.Linear(8, 3), num_heads=2, scale=0.5)
    groups = assert_exact(lively(network), TOKENS).groups
    assert places(groups) == {
        "qkv:heads": (2, ["qkv.weight 0", "qkv.bias 0", "out.weight 1"]),
        "qkv:width": (4, ["qkv.weight 0", "qkv.bias 0", "out.weight 1"]),
    }
    assert entries(groups, "qkv:heads", "num_heads", -1) == column(2)
    assert entries(groups, "qkv:width", "qkv.weight", 0) == [
        [place, place + 4, place + 8, place + 12, place + 16, place + 20] for place in range(4)
    ]


def grouped_queries(net: Network, x: Tensor) -> Tensor:
    q, k, v = (
        layer(x).unflatten(-1, (-1, net.width)).transpose(1, 2) for layer in (net.q, net.k, net.v)
    )
    k, v = (each.repeat_interleave(net.repeats, dim=1) for each in (k, v))
    weights = (q @ k.transpose(-2, -1) * net.scale).softmax(-1)
    return net.out((weights @ v).transpose(1, 2).flatten(2))


def test_queries_that_share_keys() -> None:
    network = Network(
        grouped_queries,
        q=nn.Linear(6, 20),
        k=nn.Linear(6, 10),
        v=nn.Linear(6, 10),
        out=nn.Linear(20, 3),
        width=5,
        repeats=2,
        scale=0.5,
    )
    groups = assert_exact(lively(network), TOKENS).groups
    shared = [group for group in groups.prunable if "k.weight 0" in places(groups)[group.name][1]]
    assert {group.units for group in shared} == {2, 5}  # pairs of heads share a key
    assert entries(groups, shared[0].name, "q.weight", 0) in (
        [list(range(10)), list(range(10, 20))],
        [[place, place + 5, place + 10, place + 15] for place in range(5)],
    )


def test_a_block_norm_has_blocks_and_channels_within_them() -> None:
    network = nn.Sequential(nn.Conv1d(5, 6, 1), nn.GroupNorm(2, 6), nn.Conv1d(6, 3, 1))
    groups = assert_exact(lively(network), TOKENS).groups
    tensors = ["0.weight 0", "0.bias 0", "1.weight 0", "1.bias 0", "2.weight 1"]
    assert places(groups) == {"0:blocks": (2, tensors), "0": (3, tensors)}
    assert entries(groups, "0:blocks", "1.weight", 0) == [[0, 1, 2], [3, 4, 5]]
    assert entries(groups, "0:blocks", "1.num_groups", -1) == column(2)
    assert entries(groups, "0", "1.weight", 0) == [[0, 3], [1, 4], [2, 5]]


def test_a_residual_stream_with_layer_norms_is_one_group() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + net.two(torch.relu(net.one(net.before(x))))
        return net.out(net.after(x))

    network = Network(
        run,
        stem=nn.Linear(6, 8),
        before=nn.LayerNorm(8),
        one=nn.Linear(8, 7),
        two=nn.Linear(7, 8),
        after=nn.LayerNorm(8, bias=False),
        out=nn.Linear(8, 3),
    )
    groups = assert_exact(lively(network), TOKENS).groups
    assert {group.name: group.units for group in groups.prunable} == {"stem": 8, "one": 7}
    assert set(places(groups)["stem"][1]) == {
        "stem.weight 0",
        "stem.bias 0",
        "before.weight 0",
        "before.bias 0",
        "one.weight 1",
        "two.weight 0",
        "two.bias 0",
        "after.weight 0",
        "out.weight 1",
    }


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(8, elementwise_affine=False),
        nn.LayerNorm((5, 8)),
        nn.RMSNorm(8),
        nn.LocalResponseNorm(2),
        nn.Softmax(-1),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_that_count_all_their_units_keep_them(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 3))
    assert units(network, TOKENS) == {}


def test_weight_norm() -> None:
    network = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    groups = assert_exact(lively(network), TOKENS).groups
    (count, tensors) = next(iter(places(groups).values()))
    assert count == 8
    assert set(tensors) == {
        "0.parametrizations.weight.original0 0",
        "0.parametrizations.weight.original1 0",
        "0.bias 0",
        "2.weight 1",
    }


def test_what_a_weight_normed_layer_reads_changes_its_norms() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), weight_norm(nn.Linear(8, 3)))
    assert units(network, TOKENS) == {}


def test_an_embedding_whose_table_is_the_output_layer() -> None:
    network = Network(
        lambda net, x: net.head(net.body(net.table(x))),
        table=nn.Embedding(11, 8),
        body=nn.Linear(8, 8),
        head=nn.Linear(8, 11, bias=False),
    )
    network.head.weight = network.table.weight
    groups = assert_exact(lively(network), WORDS).groups
    ((count, tensors),) = places(groups).values()
    assert count == 8
    assert set(tensors) == {"table.weight 1", "body.weight 0", "body.weight 1", "body.bias 0"}


def test_a_carved_tied_table_is_still_one_tensor() -> None:
    network = Network(
        lambda net, x: net.head(net.table(x)),
        table=nn.Embedding(11, 8),
        head=nn.Linear(8, 11, bias=False),
    )
    network.head.weight = network.table.weight
    plan, _ = planned(lively(network), WORDS)
    carved = plan.carve(Policy.from_keep_ratios({"table": 0.5}))
    assert carved.head.weight is carved.table.weight
    assert carved.table.embedding_dim == carved.head.in_features == 4


def test_a_layer_that_runs_twice_ties_what_it_makes_to_what_it_reads() -> None:
    twice = nn.Linear(8, 8)
    network = nn.Sequential(nn.Linear(6, 8), twice, nn.ReLU(), twice, nn.Linear(8, 3))
    groups = assert_exact(lively(network), TOKENS).groups
    assert {group.name: group.units for group in groups.prunable} == {"0": 8}
    assert set(places(groups)["0"][1]) == {
        "0.weight 0",
        "0.bias 0",
        "1.weight 0",
        "1.weight 1",
        "1.bias 0",
        "4.weight 1",
    }


def test_a_layer_on_two_inputs_ties_these() -> None:
    network = Network(
        lambda net, x: net.out(net.shared(net.a(x)) * net.shared(net.b(x))),
        a=nn.Linear(6, 4),
        b=nn.Linear(6, 4),
        shared=nn.Linear(4, 5),
        out=nn.Linear(5, 3),
    )
    assert units(network, TOKENS) == {"a": 4, "shared": 5}
