"""Carving: exact outputs, exact costs, and an original that nobody touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.l1 import L1
from autoprune.errors import PolicyError
from autoprune.graph.group import GroupTable, PrunableGroup
from autoprune.policy import Policy
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import plan_by, score_groups
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from tests.networks import ALL, Chain, Concat, Depthwise, Residual, built


def planned(kind: type[nn.Module]) -> tuple[Plan, nn.Module, Tensor]:
    network, example = built(kind)
    groups = prove(network, discover(network, example).groups, example).groups
    return (
        plan_by("l1", Evidence(network, groups)),
        network,
        example,
    )


def random_policies(groups: GroupTable, count: int) -> list[Policy]:
    rng = np.random.default_rng(5)
    return [
        groups.canonical(
            Policy.from_keep_ratios({x.name: rng.uniform(0.01, 1) for x in groups.prunable})
        )
        for _ in range(count)
    ]


class Sequence(nn.Module):
    """One-dimensional convolutions, and a batch norm behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.b = nn.Conv1d(6, 4, 3)
        self.hidden = nn.Linear(4 * 60, 8)
        self.hidden_norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.norm(self.a(x.flatten(2)))))
        return self.out(torch.relu(self.hidden_norm(self.hidden(x.flatten(1)))))


class Gated(nn.Module):
    """A squeeze-and-excitation gate: channels multiply channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        gate = self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.out((x * torch.sigmoid(gate)).mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers over tokens, in an own dimension or folded into the batch."""

    def __init__(self, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.wide = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        tokens = x.reshape(-1, x.shape[2]) if self.folded else x
        tokens = self.back(torch.relu(self.wide(tokens)))
        return self.out((x + tokens.reshape(x.shape)).mean(1))


class FoldedTokens(Tokens):
    def __init__(self) -> None:
        super().__init__(folded=True)


class Upward(nn.Module):
    """A transposed convolution whose output is not its stride times its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.up(torch.relu(self.a(x)))).mean((2, 3)))


NETWORKS = [
    *ALL,
    Sequence,
    Gated,
    Tokens,
    FoldedTokens,
    Upward,
]


def silenced(plan: Plan, policy: Policy) -> nn.Module:
    """The slow twin: the dense network with removed units silenced where they are read."""
    import copy

    network = copy.deepcopy(plan.model)
    for name, kept in plan.kept_units(policy).items():
        removed = np.setdiff1d(np.arange(plan.groups[name].units), kept)
        for each in plan.groups[name].slices:
            if each.role == "in":
                index = torch.from_numpy(each.entries[removed].reshape(-1))
                network.get_parameter(each.tensor).data.index_fill_(each.dim, index, 0.0)
    return network


def counted_macs(network: nn.Module, example: Tensor) -> int:
    """The slow twin of the cost table: count in hooks, layer by layer."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            total += inputs[0].numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(example[:1])  # one sample
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_carved_network_is_the_silenced_one_at_the_tables_cost(kind: type[nn.Module]) -> None:
    plan, network, example = planned(kind)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    costs = discover(network, example).with_groups(plan.groups).costs
    for policy in (Policy(), *random_policies(plan.groups, 20)):
        carved = plan.carve(policy)
        outputs = carved(example)
        for twin in (silenced(plan, policy), plan.mask(policy)):
            torch.testing.assert_close(outputs, twin(example), atol=1e-5, rtol=1e-5)
        expected = costs.costs(policy)
        assert counted_macs(carved, example) == expected.macs
        assert sum(x.numel() for x in carved.parameters()) == expected.params
        stored = sum(x.numel() * x.element_size() for x in carved.state_dict().values())
        assert stored == expected.size_bytes
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])


def test_every_hidden_layer_of_these_networks_is_prunable() -> None:
    prunable = {
        kind: [group.name for group in planned(kind)[0].groups.prunable]
        for kind in (*ALL, Sequence, Gated, Tokens)
    }
    assert prunable == {
        Chain: ["a", "b", "hidden"],
        Residual: ["stem", "one"],
        Depthwise: ["expand", "project"],
        Concat: ["left", "right", "mix"],
        Sequence: ["a", "b", "hidden"],
        Gated: ["a", "squeeze"],
        Tokens: ["patch", "wide"],
    }


def test_what_a_transposed_convolution_reads_is_prunable() -> None:
    assert [group.name for group in planned(Upward)[0].groups.prunable] == ["a", "up"]


def test_a_criterion_without_scores_is_refused() -> None:
    plan, _, _ = planned(Chain)
    with pytest.raises(PolicyError, match="l2"):
        plan.carve(Policy.from_keep_ratios({"a": 0.5}, criterion="l2"))


def test_where_nothing_leaves_no_criterion_is_asked() -> None:
    plan, network, example = planned(Chain)
    other = Plan(
        network, plan.groups, {"taylor": score_groups(L1(), Evidence(network, plan.groups)).scores}
    )
    torch.testing.assert_close(other.carve(Policy())(example), network(example))
    assert other.kept_entries(Policy()) == {}


def test_a_weight_normed_layer_is_pruned() -> None:
    network = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 4), nn.Linear(4, 3)
    )
    network.eval().requires_grad_(False)
    example = torch.randn(2, 6)
    groups = prove(network, discover(network, example).groups, example).groups
    assert [group.name for group in groups.prunable] == ["0", "1"]
    assert set(score_groups(L1(), Evidence(network, groups)).scores) == {"0", "1"}
    carved = plan_by("l1", Evidence(network, groups)).carve(Policy.from_keep_ratios({"0": 0.6}))
    assert carved[0].weight.shape == (3, 6)


def test_carving_shares_no_memory_with_the_original() -> None:
    plan, network, _ = planned(Residual)
    carved = plan.carve(Policy.from_keep_ratios({"one": 0.4}))
    original = {each.data_ptr() for each in network.state_dict().values()}
    assert not original & {each.data_ptr() for each in carved.state_dict().values()}


def test_the_highest_scores_stay_and_ties_keep_the_earlier_unit() -> None:
    network, example = built(Chain)
    groups = prove(network, discover(network, example).groups, example).groups
    scores = {group.name: np.zeros(group.units) for group in groups.prunable}
    scores["a"] = np.array([1.0, 5.0, 2.0, 2.0, 0.0, 2.0])
    plan = Plan(network, groups, {"l1": scores})
    kept = plan.kept_units(Policy.from_keep_ratios({"a": 0.5, "b": 0.5}))
    assert kept["a"].tolist() == [1, 2, 3]
    assert kept["b"].tolist() == [0, 1]
    carved = plan.carve(Policy.from_keep_ratios({"a": 0.5}))
    source = network.get_submodule("a").get_parameter("weight")
    assert torch.equal(carved.get_submodule("a").get_parameter("weight"), source[[1, 2, 3]])


def test_mode_layout_dtype_and_gradients_survive() -> None:
    plan, network, example = planned(Residual)
    network.train()
    network.double()
    network.requires_grad_(True)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    plan = plan_by("l1", Evidence(network, plan.groups))
    carved = plan.carve(Policy.from_keep_ratios({"stem": 0.5, "one": 0.6}))
    weight = carved.get_submodule("one").get_parameter("weight")
    assert weight.shape == (3, 4, 3, 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(each.dtype is torch.float64 and each.requires_grad for each in carved.parameters())
    assert all(module.training for module in carved.modules())
    carved(example.double()).sum().backward()
    assert weight.grad is not None


def test_policies_for_unknown_or_frozen_groups_are_refused() -> None:
    plan, _, _ = planned(Chain)
    with pytest.raises(PolicyError, match="does not exist"):
        plan.carve(Policy.from_keep_ratios({"z": 0.5}))
    with pytest.raises(PolicyError, match="must stay whole"):
        plan.carve(Policy.from_keep_ratios({"out": 0.5}))


def test_the_proof_quarantines_a_wrong_index_map() -> None:
    network, example = built(Chain)
    groups = discover(network, example).groups
    wrong = []
    for group in groups:
        slices = tuple(
            replace(x, entries=x.entries[::-1].copy()) if x.role == "in" else x
            for x in group.slices
        )
        wrong.append(PrunableGroup(group.name, group.units, slices, group.reason))
    proven = prove(network, GroupTable(wrong), example).groups
    assert all("outputs differ" in (proven[name].reason or "") for name in ("a", "b", "hidden"))


class Remembering(nn.Module):
    """Attention over pixels whose biases are laid out once and kept while in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv = nn.Linear(3, 3 * 4 * 2)
        self.biases = nn.Parameter(torch.randn(4, 9))
        self.register_buffer("index", torch.arange(16).reshape(4, 4) % 9, persistent=False)
        self.out = nn.Linear(8, 3)
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Remembering:
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        tokens = nn.functional.adaptive_avg_pool2d(x, 2).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(*tokens.shape[:2], 3, self.heads, 2).unbind(2)
        if "biases" not in self.kept:
            self.kept["biases"] = self.biases[:, self.index]
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) + self.kept["biases"]
        return self.out((scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2).mean(1))


def test_what_a_network_keeps_in_evaluation_is_not_carved_along() -> None:
    network, example = built(Remembering)
    network(example)  # fills what is kept
    groups = prove(network, discover(network, example).groups, example).groups
    assert groups["qkv:heads"].reason is None
    plan = plan_by("l1", Evidence(network, groups))
    policy = Policy.from_keep_ratios({"qkv:heads": 0.5})
    torch.testing.assert_close(plan.carve(policy)(example), plan.mask(policy)(example))


class Faint(nn.Module):
    """A branch that adds a millionth, like a layer scale that was never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-6 * self.b(torch.relu(self.a(x)))


def test_a_wrong_index_map_does_not_hide_in_rounding_errors() -> None:
    network, example = built(Faint)
    groups = discover(network, example).groups
    assert prove(network, groups, example).groups["a"].reason is None
    wrong = [
        replace(
            group,
            slices=tuple(
                replace(x, entries=np.roll(x.entries, 1, axis=0)) if x.role == "in" else x
                for x in group.slices
            ),
        )
        for group in groups
    ]
    assert "outputs differ" in (prove(network, GroupTable(wrong), example).groups["a"].reason or "")
