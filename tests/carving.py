"""What carving must keep: the function of the masked network, the table's costs, the original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from autoprune.graph.cost import CostTable
from autoprune.graph.group import STORED, GroupTable
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan
from autoprune.surgery.proof import prove
from autoprune.tracing.discovery import discover
from autoprune.tracing.example import Example, call, tensors_of
from tests.zoo.base import enliven

Places = dict[str, tuple[int, list[str]]]
Content = dict[str, tuple[Tensor, bool, Tensor | None]]


class Network(nn.Module):
    """A network written in one line: modules and numbers by name, and what forward does."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._run = run
        for name, each in parts.items():
            setattr(self, name, each)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self, *args, **kwargs)


def lively(network: nn.Module) -> nn.Module:
    """Return the network with seeded weights, in eval mode and in double precision."""
    generator = torch.Generator().manual_seed(4)
    for each in network.parameters():
        each.data.uniform_(-0.7, 0.7, generator=generator)
    enliven(network, seed=1)
    return network.eval().double()


def planned(network: nn.Module, example: Example) -> tuple[Plan, CostTable]:
    """Discover and prove the groups of a network; units have random scores."""
    graph = discover(network, example)
    graph = graph.with_groups(prove(network, graph.groups, example).groups)
    rng = np.random.default_rng(3)
    scores = {each.name: rng.random(each.units) for each in graph.groups.prunable}
    return Plan(network, graph.groups, {"l1": scores}), graph.costs


def places(groups: GroupTable) -> Places:
    """Return units and dimensions of stored tensors of every prunable group."""
    return {
        group.name: (
            group.units,
            [f"{each.tensor} {each.dim}" for each in group.slices if each.role in STORED],
        )
        for group in groups.prunable
    }


def entries(groups: GroupTable, group: str, tensor: str, dim: int) -> list[list[int]]:
    """Return the positions of every unit of a group along a dimension."""
    (found,) = (x for x in groups[group].slices if (x.tensor, x.dim) == (tensor, dim))
    rows: list[list[int]] = found.entries.tolist()
    return rows


def column(count: int, offset: int = 0) -> list[list[int]]:
    return [[offset + index] for index in range(count)]


def policies(groups: GroupTable, count: int) -> list[Policy]:
    """Draw canonical policies over all prunable groups, and the smallest network."""
    rng = np.random.default_rng(5)
    names = [each.name for each in groups.prunable]
    ratios = [{name: rng.uniform(0.01, 1.0) for name in names} for _ in range(count - 1)]
    ratios.append(dict.fromkeys(names, 0.01))
    return [groups.canonical(Policy.from_keep_ratios(each)) for each in ratios]


def content(network: nn.Module) -> Content:
    """Copy what a network holds: values, whether they learn, and gradients."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        name: (each.detach().clone(), each.requires_grad, copy.copy(each.grad))
        for name, each in named.items()
    }


def is_same(one: Content, other: Content) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name][0], other[name][0]) and one[name][1:] == other[name][1:]
        for name in one
    )


def outputs_of(network: nn.Module, example: Example) -> list[Tensor]:
    with torch.no_grad():
        return tensors_of(call(network, example))


def difference(ones: list[Tensor], others: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest output."""
    assert [each.shape for each in ones] == [each.shape for each in others]
    scale = max(float(each.abs().max()) for each in others)
    pairs = zip(ones, others, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs) / max(scale, 1e-30)


def counted_macs(network: nn.Module, example: Example) -> int:
    """Count one sample's multiply-accumulates while the network runs.

    PyTorch's counter knows convolutions, transposed ones included, and matrix products
    (mm, addmm, bmm, baddbmm): attention is run in these. It counts two operations each.
    """
    sample: Any = tree_map_only(Tensor, lambda each: each[:1], example)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call(network, sample)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def stored_bytes(network: nn.Module) -> int:
    """Count what a state dict holds; a tensor under two names is stored once."""
    stored = {id(each): each for each in network.state_dict(keep_vars=True).values()}
    return sum(each.numel() * each.element_size() for each in stored.values())


def assert_exact(
    network: nn.Module,
    example: Example,
    *,
    count: int = 4,
    tolerance: float = 1e-9,
    counts_macs: bool = True,
) -> Plan:
    """Carve random policies: same function as masked, costs of the table, original untouched."""
    before = content(network)
    plan, table = planned(network, example)
    assert is_same(content(network), before)
    for policy in policies(plan.groups, count):
        carved, masked = plan.carve(policy), plan.mask(policy)
        assert is_same(content(network), before)
        error = difference(outputs_of(carved, example), outputs_of(masked, example))
        assert error <= tolerance, (error, policy.to_json())
        costs = table.costs(policy)
        assert costs.params == sum(each.numel() for each in carved.parameters())
        assert costs.size_bytes == stored_bytes(carved)
        if counts_macs:
            assert costs.macs == counted_macs(carved, example), policy.to_json()
    return plan
