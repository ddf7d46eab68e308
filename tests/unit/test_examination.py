"""Examination: what is proven at first, and what a second look with coupled widths gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.policy import Policy
from autoprune.surgery.examination import examine
from autoprune.surgery.plan import Plan
from tests.carving import difference, outputs_of
from tests.networks import Chain, built

TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))


class OfItsInput(nn.Module):
    """Attention that reads every size off its input, as Swin, PVT and CaiT do."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.heads = 3
        self.scale = scale
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        shape = (count, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(count, length, width))


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 12)
        self.first = OfItsInput(0.5)
        self.second = OfItsInput(0.5)
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.out(x.mean(1))


def test_a_stream_is_pruned_with_the_heads_that_read_it() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Stage().eval().requires_grad_(False)
    found = examine(network, TOKENS)
    groups = found.graph.groups
    assert {group.name: group.units for group in groups.prunable} == {
        "embed:heads": 3,
        "embed:width": 4,
    }
    assert not found.quarantined
    ranks = {group.name: np.arange(group.units, dtype=float) for group in groups.prunable}
    plan = Plan(network, groups, {"l1": ranks})
    policy = Policy.from_keep_ratios({"embed:heads": 2 / 3, "embed:width": 0.5})
    carved = plan.carve(policy)
    assert carved.get_submodule("embed").get_parameter("weight").shape == (4, 12)
    assert carved.get_submodule("first.qkv").get_parameter("weight").shape == (12, 4)
    assert difference(outputs_of(carved, TOKENS), outputs_of(plan.mask(policy), TOKENS)) <= 1e-5


def test_one_look_is_enough_where_nothing_fails() -> None:
    network, example = built(Chain)
    found = examine(network, example)
    assert [group.name for group in found.graph.groups.prunable] == ["a", "b", "hidden"]
    assert found.quarantined == ()
    assert 0.0 <= found.error <= 1e-5


def test_a_network_without_floating_outputs_is_an_input_error() -> None:
    network = nn.Sequential(nn.Linear(12, 4), Largest())
    with pytest.raises(ModelError, match="returns no floating-point tensor"):
        examine(network, TOKENS)


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)
