"""The cost of a policy, computed from tables before anything is carved.

Parameters and multiply-accumulates are products of dimensions, and a dimension's length
depends only on how many units are kept, so every cheap cost is a handful of vector
operations. The table is plain data, made once from the traced network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from autoprune.graph.cost_row import CostRow
from autoprune.graph.extent import Extent
from autoprune.graph.group import GroupTable
from autoprune.graph.layer import Layer
from autoprune.graph.layer_cost import FULL, UNTOUCHED, LayerRows, numbers_of, padded
from autoprune.policy import Policy


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs: multiply-accumulates of one sample, as dense kernels execute them,
    parameters that are kept, stored bytes, the bytes that convolutions, linear and recurrent
    layers write for one sample, and bit operations, where every multiplication counts the bits
    of its weight times those of what it is multiplied with (Wang et al., HAQ, CVPR 2019).
    """

    macs: int
    params: int
    size_bytes: int
    activation_bytes: int = 0
    bitops: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the costs that people are shown, by name."""
        return {
            "macs": self.macs,
            "params": self.params,
            "size_bytes": self.size_bytes,
            "bitops": self.bitops,
        }


COLUMNS = tuple(each.name for each in fields(Costs))
"""Names of the costs, in the order of `CostTable.of_states`."""


class CostTable:
    """Costs of every policy of a network: `costs(policy)` in microseconds, torch-free.

    A *state* is a policy as a vector: the kept units of every group, whether every block is
    left out (0 or 1), and six numbers for every layer (`layer_cost.UNTOUCHED`), in the order of
    the table. States of policies that differ in decisions about different things differ in
    different places, so they can be added up.
    """

    def __init__(self, rows: Iterable[CostRow], groups: GroupTable) -> None:
        self.rows = tuple(rows)
        self.groups = groups
        self._index = {group.name: number for number, group in enumerate(groups)}
        self._units = np.array([group.units for group in groups] + [1.0])
        extents = _extents((*self.rows, *groups.layers))
        places = {each: place for place, each in enumerate(extents)}
        parts = [(place, *part) for each, place in places.items() for part in each.parts]
        self._fixed = np.array([each.fixed for each in extents] + [1.0])
        self._part_extent = np.array([place for place, _, _ in parts], dtype=np.int64)
        self._part_width = np.array([width for _, width, _ in parts])
        self._part_groups = padded(
            [[self._index[name] for name in names] for _, _, names in parts], len(groups)
        )
        self._row_extents = padded(
            [[places[each] for each in row.extents] for row in self.rows], len(extents)
        )
        self._constant = np.array([row.constant for row in self.rows], dtype=np.float64)
        self._in_block = np.array(
            [[block.holds(row.module) for row in self.rows] for block in groups.blocks], dtype=float
        ).reshape(len(groups.blocks), len(self.rows))
        self._layers = LayerRows(self.rows, groups.layers, places)
        self._per_element = np.array(
            [[row.macs, row.params, row.item_bytes, row.written_bytes] for row in self.rows],
            dtype=np.float64,
        ).reshape(len(self.rows), 4)

    def state(self, policy: Policy) -> np.ndarray:
        """Return the state of a policy, shape (width,).

        Raises `PolicyError` for a policy of another network.
        """
        units = self.groups.kept_units(policy)
        dropped = {block.name for block in self.groups.dropped(policy)}
        self.groups.check_layers(policy)
        decided = np.array([numbers_of(policy.layer(each.name)) for each in self.groups.layers])
        return np.array(
            [
                *(units.get(group.name, group.units) for group in self.groups),
                *(block.name in dropped for block in self.groups.blocks),
                *decided.T.ravel(),
            ],
            dtype=np.float64,
        )

    def of_states(self, states: np.ndarray) -> np.ndarray:
        """Return the costs of many states (n, width), shape (n, 5), columns as in `COLUMNS`."""
        elements, lengths, decisions = self._elements(np.asarray(states, dtype=np.float64))
        if (decisions == UNTOUCHED).all():
            totals = elements @ self._per_element
            return np.column_stack([totals, totals[:, 0] * FULL**2])
        elements, stored, size, operations = self._layers.costs(elements, lengths, decisions)
        totals = elements @ self._per_element
        totals[:, 1] = stored @ self._per_element[:, 1]
        totals[:, 2] = size.sum(axis=1)
        return np.column_stack([totals, operations.sum(axis=1)])

    def _elements(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what states (n, width) say: elements of every row (n, rows) while layers stay
        one, lengths of every extent (n, extents + 1), and decisions about layers (n, 6, layers).
        """
        groups, blocks, layers = (
            len(each) for each in (self.groups.groups, self.groups.blocks, self.groups.layers)
        )
        kept, dropped, bits = np.split(states, [groups, groups + blocks], axis=1)
        lengths = self._lengths(kept)
        elements = self._constant * lengths[:, self._row_extents].prod(axis=-1)
        if blocks:
            elements *= (dropped @ self._in_block) < 0.5
        return elements, lengths, bits.reshape(len(states), len(UNTOUCHED), layers)

    def _lengths(self, kept: np.ndarray) -> np.ndarray:
        """Return the length of every extent, and a one, shape (n, extents + 1)."""
        counts = np.concatenate([kept, np.ones((len(kept), 1))], axis=1)
        values = self._part_width * counts[:, self._part_groups].prod(axis=-1)
        lengths = np.broadcast_to(self._fixed, (len(kept), len(self._fixed))).copy()
        index: Any = (slice(None), self._part_extent)
        np.add.at(lengths, index, values)
        return lengths

    def costs(self, policy: Policy) -> Costs:
        """Return what `policy` costs; raises `PolicyError` for a policy of another network."""
        return _costs(self.of_states(self.state(policy)[None])[0])

    def by_module(self, policy: Policy) -> dict[str, Costs]:
        """Return the cost of every module that has any, in the order of the forward pass."""
        totals: dict[str, np.ndarray] = {}
        elements, stored, size, operations = (
            each[0] for each in self._layers.costs(*self._elements(self.state(policy)[None]))
        )
        costs = np.column_stack([elements[:, None] * self._per_element, operations])
        costs[:, 1] = stored * self._per_element[:, 1]
        costs[:, 2] = size
        for row, each in zip(self.rows, costs, strict=True):
            totals[row.module] = totals.get(row.module, 0.0) + each
        return {name: _costs(total) for name, total in totals.items()}

    def lowest(self) -> Costs:
        """Return the cost with one unit left in every prunable group and no droppable block."""
        ratios = {group.name: 1.0 / group.units for group in self.groups.prunable}
        dropped = frozenset(block.name for block in self.groups.droppable)
        return self.costs(replace(Policy.from_keep_ratios(ratios), dropped=dropped))

    def to_json(self) -> list[Any]:
        """Return a JSON array; the groups travel on their own."""
        return [row.to_json() for row in self.rows]

    @classmethod
    def from_json(cls, body: Iterable[Any], groups: GroupTable) -> CostTable:
        """Rebuild a table from `to_json` and its groups."""
        return cls((CostRow.from_json(row) for row in body), groups)


def _costs(row: np.ndarray) -> Costs:
    return Costs(*(int(each) for each in row))


def _extents(holders: Iterable[CostRow | Layer]) -> list[Extent]:
    """Return all extents, each once."""
    found: dict[Extent, None] = {}
    for each in holders:
        if isinstance(each, CostRow):
            found.update(dict.fromkeys(each.extents))
        else:
            found.update(dict.fromkeys(each.outputs))
            found.update({} if each.inputs is None else {each.inputs: None})
    return list(found)
