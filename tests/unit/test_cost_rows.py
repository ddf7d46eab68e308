"""What layers write: the cost table against carved networks that run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.graph.cost import Costs, CostTable
from autoprune.policy import Policy
from autoprune.surgery.plan import Plan
from tests.carving import Network, planned
from tests.networks import Depthwise, Residual, built

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LSTM)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))


def mlp() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7, bias=False), nn.ReLU(), nn.Linear(7, 3)]
    return nn.Sequential(*layers), TOKENS[:, 0]


def depthwise() -> tuple[nn.Module, Tensor]:
    return built(Depthwise)


def residual() -> tuple[nn.Module, Tensor]:
    return built(Residual)


def grouped() -> tuple[nn.Module, Tensor]:
    """Convolutions in groups and transposed, one of which runs twice."""
    network = Network(
        lambda net, x: net.out(net.grow(net.twice(net.twice(net.grouped(net.a(x))))).mean((2, 3))),
        a=nn.Conv2d(3, 8, 1),
        grouped=nn.Conv2d(8, 8, 3, stride=2, groups=2),
        twice=nn.Conv2d(8, 8, 1),
        grow=nn.ConvTranspose2d(8, 5, 2, stride=2),
        out=nn.Linear(5, 3),
    )
    return network, IMAGES


class Attention(nn.Module):
    """Two heads of four places, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.back = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        made = (layer(x).unflatten(-1, (2, -1)) for layer in (self.q, self.k, self.v))
        queries, keys, values = (each.transpose(1, 2) for each in made)
        mixed = (queries @ keys.transpose(-2, -1)).softmax(-1) @ values
        return self.back(mixed.transpose(1, 2).flatten(2))


def attention() -> tuple[nn.Module, Tensor]:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.embed(x)
        x = x + net.attention(x)
        x = x + net.narrow(torch.relu(net.wide(x)))
        return net.out(x.mean(1))

    sizes = {"embed": (6, 8), "wide": (8, 12), "narrow": (12, 8), "out": (8, 3)}
    layers = {name: nn.Linear(*each) for name, each in sizes.items()}
    return Network(run, attention=Attention(), **layers), TOKENS


def recurrent() -> tuple[nn.Module, Tensor]:
    network = Network(
        lambda net, x: net.out(net.cells(net.a(x))[0]),
        a=nn.Conv1d(5, 5, 1),
        cells=nn.LSTM(6, 4, batch_first=True, bidirectional=True),
        out=nn.Linear(8, 3),
    )
    return network, TOKENS


NETWORKS = (mlp, residual, depthwise, grouped, attention, recurrent)


@cache
def carvable(make: Callable[[], tuple[nn.Module, Tensor]]) -> tuple[Plan, CostTable, Tensor]:
    network, example = make()
    return *planned(network.eval().requires_grad_(False), example), example


def written_bytes(network: nn.Module, sample: Tensor) -> int:
    """Add up what convolutions, linear and recurrent layers return while a sample runs."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, object]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        sizes.append(tensor.numel() * tensor.element_size())

    for module in network.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(sample)
    return sum(sizes)


@st.composite
def policies(draw: st.DrawFn, plan: Plan) -> Policy:
    """Draw keep ratios of all groups, and blocks to leave out."""
    names = [group.name for group in plan.groups.prunable]
    ratios = draw(st.fixed_dictionaries({name: st.floats(0.01, 1.0) for name in names}))
    blocks = [block.name for block in plan.groups.droppable]
    dropped = draw(st.sets(st.sampled_from(blocks))) if blocks else set()
    policy = replace(Policy.from_keep_ratios(ratios), dropped=frozenset(dropped))
    return plan.groups.canonical(policy)


@pytest.mark.parametrize("make", NETWORKS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_the_table_knows_what_every_carved_network_writes(
    make: Callable[[], tuple[nn.Module, Tensor]], data: st.DataObject
) -> None:
    plan, table, example = carvable(make)
    policy = data.draw(policies(plan))
    costs = table.costs(policy)
    assert costs.activation_bytes == written_bytes(plan.carve(policy), example[:1])
    assert (
        sum(x.activation_bytes for x in table.by_module(policy).values()) == costs.activation_bytes
    )


@pytest.mark.parametrize("make", NETWORKS)
def test_many_networks_at_once_write_what_each_of_them_does(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    plan, table, _ = carvable(make)
    rng = np.random.default_rng(0)
    several = [
        Policy.from_keep_ratios(
            {x.name: int(rng.integers(1, x.units + 1)) / x.units for x in plan.groups.prunable}
        )
        for _ in range(9)
    ]
    states = np.stack([table.state(policy) for policy in several])
    for policy, costs in zip(several, table.of_states(states), strict=True):
        assert Costs(*map(int, costs)) == table.costs(policy)


def test_a_residual_network_by_hand() -> None:
    plan, table, _ = carvable(residual)
    # 64 places of 8, 5 and 8 channels, and 3 outputs, of 4 bytes.
    assert table.costs(Policy()).activation_bytes == 4 * (64 * (8 + 5 + 8) + 3)
    half = plan.groups.canonical(Policy.from_keep_ratios({"stem": 0.5, "one": 0.4}))
    assert table.costs(half).activation_bytes == 4 * (64 * (4 + 2 + 4) + 3)
    assert table.by_module(half)["one"].activation_bytes == 4 * 64 * 2


def test_what_layers_write_survives_json() -> None:
    for make in NETWORKS:
        plan, table, _ = carvable(make)
        again = CostTable.from_json(json.loads(json.dumps(table.to_json())), plan.groups)
        assert again.rows == table.rows


def test_attention_and_stacked_cells_by_hand() -> None:
    network = Network(
        lambda net, x: net.cells(net.mixed(x, x, x, need_weights=False)[0])[0],
        mixed=nn.MultiheadAttention(6, 2, batch_first=True),
        cells=nn.LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True),
    )
    plan, table = planned(network.eval().requires_grad_(False), TOKENS)
    # Five places of queries, keys, values and what they become; two layers in two directions.
    assert table.costs(Policy()).activation_bytes == 4 * 5 * (4 * 6 + 2 * 2 * 4)
    heads = next(group for group in plan.groups.prunable if group.units == 2)
    one = plan.groups.canonical(Policy.from_keep_ratios({heads.name: 0.5}))
    assert table.costs(one).activation_bytes == 4 * 5 * (3 * 3 + 6 + 2 * 2 * 4)
