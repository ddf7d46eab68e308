"""The cost of a policy, computed from tables before anything is carved.

Parameters and multiply-accumulates are products of dimensions, and a dimension's length
depends only on how many units are kept, so every cheap cost is a handful of vector
operations. The table is plain data, made once from the traced network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoprune.graph.group import GroupTable
from autoprune.policy import Policy


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs: multiply-accumulates of one sample, parameters, stored bytes, and
    the bytes that convolutions, linear and recurrent layers write for one sample.
    """

    macs: int
    params: int
    size_bytes: int
    activation_bytes: int = 0

    @property
    def bitops(self) -> int:
        """Bit operations: every multiplication counts weight bits times activation bits, which
        are 32 each (Wang et al., HAQ, CVPR 2019).
        """
        return self.macs * 32 * 32


@dataclass(frozen=True, slots=True)
class Extent:
    """The length of a dimension: `fixed` + Σ width · Π kept units of some groups.

    `parts` lists pairs of a width and the groups whose kept units are multiplied.
    """

    fixed: int
    parts: tuple[tuple[int, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class CostRow:
    """A tensor, or a product of activations, with `elements` = constant · Π extents.

    Each element costs `macs` multiply-accumulates per sample (the output positions of a
    convolution's kernel; zero for a bias), `params` is 1 for a parameter, else 0,
    `item_bytes` is the stored size of an element, and `written_bytes` what is written of it
    for every sample, where the row is what a layer returns.
    """

    module: str
    constant: int
    extents: tuple[Extent, ...]
    macs: int = 0
    params: int = 0
    item_bytes: int = 0
    written_bytes: int = 0

    def to_json(self) -> list[Any]:
        """Return a JSON array."""
        extents = [[each.fixed, each.parts] for each in self.extents]
        per_element = [self.macs, self.params, self.item_bytes, self.written_bytes]
        return [self.module, self.constant, extents, *per_element]

    @classmethod
    def from_json(cls, body: Iterable[Any]) -> CostRow:
        """Rebuild a row from `to_json`."""
        module, constant, extents, *rest = body
        lengths = tuple(
            Extent(fixed, tuple((width, tuple(names)) for width, names in parts))
            for fixed, parts in extents
        )
        return cls(module, constant, lengths, *rest)


class CostTable:
    """Costs of every policy of a network: `costs(policy)` in microseconds, torch-free."""

    def __init__(self, rows: Iterable[CostRow], groups: GroupTable) -> None:
        self.rows = tuple(rows)
        self.groups = groups
        self._index = {group.name: number for number, group in enumerate(groups)}
        self._units = np.array([group.units for group in groups] + [1.0])
        extents = {each: place for place, each in enumerate(_extents(self.rows))}
        parts = [(place, *part) for each, place in extents.items() for part in each.parts]
        self._fixed = np.array([each.fixed for each in extents] + [1.0])
        self._part_extent = np.array([place for place, _, _ in parts], dtype=np.int64)
        self._part_width = np.array([width for _, width, _ in parts])
        self._part_groups = _padded(
            [[self._index[name] for name in names] for _, _, names in parts], len(groups)
        )
        self._row_extents = _padded(
            [[extents[each] for each in row.extents] for row in self.rows], len(extents)
        )
        self._constant = np.array([row.constant for row in self.rows], dtype=np.float64)
        self._in_block = {
            block.name: np.array([block.holds(row.module) for row in self.rows])
            for block in groups.blocks
        }
        self._per_element = np.array(
            [[row.macs, row.params, row.item_bytes, row.written_bytes] for row in self.rows],
            dtype=np.float64,
        ).reshape(len(self.rows), 4)

    def _elements(self, policy: Policy) -> np.ndarray:
        """Return how many elements every row keeps, shape (rows,)."""
        kept = self._units[:-1].copy()
        for name, count in self.groups.kept_units(policy).items():
            kept[self._index[name]] = count
        elements = self._kept_elements(kept)
        for block in self.groups.dropped(policy):
            elements[self._in_block[block.name]] = 0.0
        return elements

    def _kept_elements(self, kept: np.ndarray) -> np.ndarray:
        """Return how many elements every row keeps, shape (..., rows), of `kept` (..., groups)."""
        batch = kept.shape[:-1]
        counts = np.concatenate([kept, np.ones((*batch, 1))], axis=-1)
        values = self._part_width * counts[..., self._part_groups].prod(axis=-1)
        lengths = np.broadcast_to(self._fixed, (*batch, len(self._fixed))).copy()
        np.add.at(lengths, (..., self._part_extent), values)  # type: ignore[arg-type]
        elements: np.ndarray = self._constant * lengths[..., self._row_extents].prod(axis=-1)
        return elements

    def costs(self, policy: Policy) -> Costs:
        """Return what `policy` costs; raises `PolicyError` for a policy of other groups."""
        return Costs(*(int(each) for each in self._elements(policy) @ self._per_element))

    def of_kept(self, kept: np.ndarray, dropped: np.ndarray | None = None) -> np.ndarray:
        """Return macs, params, size_bytes and activation_bytes, shape (n, 4), of many networks.

        `kept` holds the kept units of every group of the table, shape (n, groups), `dropped`
        which blocks are left out, shape (n, blocks) boolean; none without it.
        """
        elements = self._kept_elements(np.asarray(kept, dtype=np.float64))
        for index, block in enumerate(self.groups.blocks if dropped is not None else ()):
            assert dropped is not None
            elements[np.ix_(dropped[:, index], self._in_block[block.name])] = 0.0
        totals: np.ndarray = elements @ self._per_element
        return totals

    def by_module(self, policy: Policy) -> dict[str, Costs]:
        """Return the cost of every module that has any, in the order of the forward pass."""
        totals: dict[str, np.ndarray] = {}
        for row, each in zip(
            self.rows, self._elements(policy)[:, None] * self._per_element, strict=True
        ):
            totals[row.module] = totals.get(row.module, np.zeros(4)) + each
        return {name: Costs(*(int(each) for each in total)) for name, total in totals.items()}

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


def _extents(rows: Iterable[CostRow]) -> Mapping[Extent, None]:
    return dict.fromkeys(each for row in rows for each in row.extents)


def _padded(lists: list[list[int]], filler: int) -> np.ndarray:
    """Return lists of different lengths as one array, the rest filled with `filler`."""
    width = max((len(each) for each in lists), default=0)
    rows = [each + [filler] * (width - len(each)) for each in lists]
    return np.array(rows, dtype=np.int64).reshape(len(lists), width)
