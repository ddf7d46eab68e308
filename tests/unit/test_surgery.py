"""Carving: exact outputs, exact costs, and an original that nobody touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.criteria.l1 import L1
from autoprune.errors import PolicyError
from autoprune.graph.discovery import discover
from autoprune.graph.group import GroupTable, PrunableGroup, Slice
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.surgery.scores import score_groups
from tests.networks import ALL, Chain, Residual, built


def planned(kind: type[nn.Module]) -> tuple[Plan, nn.Module, Tensor]:
    network, example = built(kind)
    groups = prove(network, discover(network, example).groups, example)
    return Plan(network, groups, {"l1": score_groups(network, groups, L1())}), network, example


def random_policies(groups: GroupTable, count: int) -> list[Policy]:
    rng = np.random.default_rng(5)
    return [
        groups.canonical(
            Policy.from_keep_ratios({x.name: rng.uniform(0.01, 1) for x in groups.prunable})
        )
        for _ in range(count)
    ]


def silenced(plan: Plan, policy: Policy) -> nn.Module:
    """The slow twin: the dense network with removed units silenced where they are read."""
    import copy

    network = copy.deepcopy(plan.model)
    for name, kept in plan.kept_units(policy).items():
        removed = np.setdiff1d(np.arange(plan.groups[name].units), kept)
        for each in plan.groups[name].slices:
            if each.side == "in":
                weight = network.get_submodule(each.module).get_parameter("weight")
                weight.data[:, each.entries[removed].reshape(-1)] = 0
    return network


def counted_macs(network: nn.Module, example: Tensor) -> int:
    """The slow twin of the cost table: count in hooks, layer by layer."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(example[:1])
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("kind", ALL)
def test_a_carved_network_is_the_silenced_one_at_the_tables_cost(kind: type[nn.Module]) -> None:
    plan, network, example = planned(kind)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    costs = discover(network, example).with_groups(plan.groups).costs
    for policy in (Policy(), *random_policies(plan.groups, 20)):
        carved = plan.carve(policy)
        torch.testing.assert_close(
            carved(example), silenced(plan, policy)(example), atol=1e-5, rtol=1e-5
        )
        expected = costs.costs(policy)
        assert counted_macs(carved, example) == expected.macs
        assert sum(x.numel() for x in carved.parameters()) == expected.params
        stored = sum(x.numel() * x.element_size() for x in carved.state_dict().values())
        assert stored == expected.size_bytes
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name])


def test_carving_shares_no_memory_with_the_original() -> None:
    plan, network, _ = planned(Residual)
    carved = plan.carve(Policy.from_keep_ratios({"one": 0.4}))
    original = {each.data_ptr() for each in network.state_dict().values()}
    assert not original & {each.data_ptr() for each in carved.state_dict().values()}


def test_the_highest_scores_stay_and_ties_keep_the_earlier_unit() -> None:
    network, example = built(Chain)
    groups = prove(network, discover(network, example).groups, example)
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
            Slice(x.module, x.side, x.size, x.entries[::-1].copy()) if x.side == "in" else x
            for x in group.slices
        )
        wrong.append(PrunableGroup(group.name, group.units, slices, group.reason))
    proven = prove(network, GroupTable(wrong), example)
    assert all("outputs differ" in (proven[name].reason or "") for name in ("a", "b", "hidden"))
