"""Depth: branches are found, left out exactly, and cost nothing then."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import PolicyError
from autoprune.evaluation.preparation import Preparation
from autoprune.graph.network import NetworkGraph
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.policy import Policy
from autoprune.preflight import _lowest
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by
from autoprune.surgery.folding import fold
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.tracing import flow
from autoprune.tracing.discovery import discover
from search_spaces.layerwise import Layerwise
from tests.carving import Network

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """One pre-norm encoder layer by hand, whose attention returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.second = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        normed = self.first(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        x = x + self.back(torch.relu(self.wide(self.second(x))))
        return self.out(x.mean(1))


class Parallel(nn.Module):
    """Two convolutions side by side, of which one may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.wide = nn.Conv2d(6, 6, 3, padding=1)
        self.narrow = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.wide(torch.relu(x)) + self.norm(self.narrow(x))
        return self.out(x.mean((2, 3)))


def planned(network: nn.Module) -> tuple[Plan, NetworkGraph]:
    network.eval().requires_grad_(False)
    graph = discover(network, IMAGES)
    graph = graph.with_groups(prove(network, graph.groups, IMAGES).groups)
    return plan_by("l1", Evidence(network, graph.groups)), graph


def resnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CifarResNet(20)


def dropping(*names: str, **keep_ratios: float) -> Policy:
    return replace(Policy.from_keep_ratios(keep_ratios), dropped=frozenset(names))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (resnet, [f"layer{x}" for x in ("1.0", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2")]),
        (Encoder, ["attention", "wide"]),
        (Parallel, ["narrow"]),
    ],
)
def test_branches_that_change_no_shape_can_be_left_out(
    make: type[nn.Module], names: list[str]
) -> None:
    plan, graph = planned(make())
    assert [block.name for block in graph.groups.droppable] == names
    for dropped in (names[:1], names):
        ratios = {group.name: 0.6 for group in graph.groups.prunable}
        policy = graph.groups.canonical(
            replace(Policy.from_keep_ratios(ratios), dropped=frozenset(dropped))
        )
        carved = plan.carve(policy)
        torch.testing.assert_close(carved(IMAGES), plan.mask(policy)(IMAGES), atol=1e-5, rtol=1e-5)
        costs = graph.costs.costs(policy)
        assert sum(each.numel() for each in carved.parameters()) == costs.params
        stored = sum(each.numel() * each.element_size() for each in carved.state_dict().values())
        assert stored == costs.size_bytes
        assert fold(carved, graph.foldable)(IMAGES).shape == (2, carved(IMAGES).shape[1])


def test_a_dropped_block_adds_nothing() -> None:
    network = resnet()
    plan, _ = planned(network)
    carved = plan.carve(dropping("layer1.1"))
    norm = network.get_submodule("layer1.1.bn2")
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    torch.testing.assert_close(carved(IMAGES), network(IMAGES), atol=1e-5, rtol=1e-5)


def test_a_branch_of_another_shape_stays_with_a_reason() -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.branch = nn.Conv2d(4, 6, 1)
            self.shortcut = nn.Conv2d(4, 6, 3, padding=1)
            self.out = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.out((self.branch(x) + self.shortcut(x)).mean((2, 3)))

    _, graph = planned(Widening())
    assert not graph.groups.droppable
    assert all("without it" in (block.reason or "") for block in graph.groups.blocks)


def test_a_branch_whose_code_splits_the_stream_stays() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.embed(x)
        pairs = net.read(x).unflatten(-1, (2, -1))
        return net.out((x + net.back(pairs.flatten(-2))).mean(1))

    layers = {"embed": (6, 8), "read": (8, 8), "back": (8, 8), "out": (8, 3)}
    network = Network(run, **{name: nn.Linear(*sizes) for name, sizes in layers.items()})
    # Half of the stream still comes in pairs; without a single unit of it there is an odd rest.
    tokens = torch.randn(2, 5, 6)
    found = discover(network.eval(), tokens)
    (block,) = prove(network, found.groups, tokens).groups.blocks
    assert block.reason is not None
    assert "unflatten" in block.reason


def test_blocks_that_are_unknown_or_frozen_are_refused() -> None:
    plan, _ = planned(resnet())
    with pytest.raises(PolicyError, match=r"did you mean 'layer1\.1'"):
        plan.carve(dropping("layer1.11"))


def test_policies_and_graphs_with_blocks_survive_json() -> None:
    _, graph = planned(Encoder())
    again = NetworkGraph.from_json(graph.to_json())
    policy = dropping("wide", wide=0.5)
    assert Policy.from_json(policy.to_json()) == policy
    assert policy.sha256 != Policy.from_keep_ratios({"wide": 0.5}).sha256
    assert again.costs.costs(policy) == graph.costs.costs(policy)
    assert again.groups.canonical(policy) == dropping("wide")


def test_the_lowest_cost_of_a_space_with_depth_leaves_the_blocks_out() -> None:
    _, graph = planned(resnet())
    preparation = Preparation(graph, torch.float32, 10, "", {})
    shallow = _lowest(Layerwise(graph.groups, keep_ratio=(0.5, 1.0), depth=True), preparation)
    deep = _lowest(Layerwise(graph.groups, keep_ratio=(0.5, 1.0)), preparation)
    assert graph.costs.costs(shallow).macs < 0.5 * graph.costs.costs(deep).macs
    blocks = frozenset(block.name for block in graph.groups.droppable)
    ratios = {group.name: 0.5 for group in graph.groups.prunable}
    expected = replace(Policy.from_keep_ratios(ratios), dropped=blocks)
    assert shallow == graph.groups.canonical(expected)


class WrittenOut(nn.Module):
    """A recurrence as a Python loop: a graph as long as its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(3, 6)
        self.step = nn.Linear(6, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = self.into(x.mean((2, 3)))
        for _ in range(30):
            state = state + torch.tanh(self.step(state))
        return self.out(state)


def test_no_branches_are_looked_for_in_a_run_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = WrittenOut().eval()
    assert discover(network, IMAGES).groups["into"].reason is None
    monkeypatch.setattr(flow, "LIMIT", 50)
    groups = discover(network, IMAGES).groups
    assert groups.blocks == ()
    assert groups["into"].reason is None
