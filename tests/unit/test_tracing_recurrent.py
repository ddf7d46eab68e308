"""Recurrent networks: one hidden size through all gates, layers and directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tests.carving import Network, assert_exact, column, entries, lively, places

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def units(network: nn.Module, example: Any, *, counts_macs: bool = True) -> dict[str, int]:
    """Check that carving is exact and return the units of every prunable group."""
    groups = assert_exact(lively(network), example, counts_macs=counts_macs).groups
    return {group.name: group.units for group in groups.prunable}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("given", [{}, {"num_layers": 2, "bidirectional": True}])
def test_hidden_units_go_through_every_gate_layer_and_direction(
    kind: type[nn.RNNBase], given: dict[str, Any]
) -> None:
    directions = 2 if given else 1
    network = Network(
        lambda net, x: net.out(net.cells(net.a(x))[0]),
        a=nn.Linear(6, 5),
        cells=kind(5, 4, batch_first=True, **given),
        out=nn.Linear(4 * directions, 3),
    )
    groups = assert_exact(lively(network), TOKENS).groups
    assert {group.name: group.units for group in groups.prunable} == {"a": 5, "cells": 4}
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    rows = [[unit + 4 * gate for gate in range(gates)] for unit in range(4)]
    assert entries(groups, "cells", "cells.weight_ih_l0", 0) == rows
    assert entries(groups, "cells", "cells.bias_hh_l0", 0) == rows
    assert entries(groups, "cells", "cells.weight_hh_l0", 1) == column(4)
    if given:
        both = [[unit, unit + 4] for unit in range(4)]
        assert entries(groups, "cells", "cells.weight_ih_l1_reverse", 1) == both
        assert entries(groups, "cells", "out.weight", 1) == both


def test_the_last_state_is_read_and_a_first_state_is_made() -> None:
    network = Network(
        lambda net, x: net.out(net.cells(x, net.first(x[:, 0])[None])[1][-1]),
        first=nn.Linear(6, 4),
        cells=nn.GRU(6, 4, batch_first=True),
        out=nn.Linear(4, 3),
    )
    groups = assert_exact(lively(network), TOKENS).groups
    (name, (count, tensors)) = next(iter(places(groups).items()))
    assert (name, count) == ("first", 4)
    assert set(tensors) == {
        "first.weight 0",
        "first.bias 0",
        "cells.weight_ih_l0 0",
        "cells.weight_hh_l0 0",
        "cells.weight_hh_l0 1",
        "cells.bias_ih_l0 0",
        "cells.bias_hh_l0 0",
        "out.weight 1",
    }


def test_a_first_state_of_zeros_follows_the_hidden_size() -> None:
    network = Network(
        lambda net, x: net.out(net.cells(x, x.new_zeros(1, len(x), net.cells.hidden_size))[0]),
        cells=nn.GRU(6, 4, batch_first=True),
        out=nn.Linear(4, 3),
    )
    assert units(network, TOKENS) == {"cells": 4}


def test_a_projection_keeps_the_hidden_units() -> None:
    network = Network(
        lambda net, x: net.out(net.cells(net.a(x))[0]),
        a=nn.Linear(6, 5),
        cells=nn.LSTM(5, 4, proj_size=2, batch_first=True),
        out=nn.Linear(2, 3),
    )
    assert units(network, TOKENS) == {"a": 5}


def test_packed_sequences() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(net.a(x), torch.tensor([5, 3])[: len(x)], batch_first=True)
        assert isinstance(packed, PackedSequence)
        out, (last, _) = net.cells(packed)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return net.out(padded.sum(1) + last[-1])

    network = Network(
        run, a=nn.Linear(6, 5), cells=nn.LSTM(5, 4, batch_first=True), out=nn.Linear(4, 3)
    )
    # The samples have different lengths: what one costs is their mean.
    assert units(network, TOKENS, counts_macs=False) == {"a": 5, "cells": 4}
