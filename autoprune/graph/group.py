"""Prunable groups as plain data: what must be removed together, and where.

Nothing here touches torch, so the front, the searchers and the client can read groups
without it. Groups are found by `autoprune.tracing` and proven by `autoprune.surgery.proof`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from autoprune.errors import PolicyError, suggestion
from autoprune.graph.block import Block, held
from autoprune.graph.layer import Layer
from autoprune.policy import UNTOUCHED, Decision, Policy

Role = Literal["out", "in", "along", "size", "enter", "leave"]
"""What a dimension does: it makes its units, reads them or goes with them.

Three roles are no dimensions of stored tensors: `size` is a number that counts units,
`enter` and `leave` are the input and the output of a module without parameters that must
run at its full width.
"""
STORED: frozenset[Role] = frozenset({"out", "in", "along"})
_PLACED: frozenset[Role] = frozenset({"size", "enter", "leave"})


@dataclass(frozen=True)
class Slice:
    """One dimension of one tensor that loses entries when units leave.

    `tensor` is the name of a parameter or buffer and `dim` one of its dimensions, of `size`
    entries. In the role `size` it names a number that a module remembers, and `dim` is its
    place in a tuple, or -1; where a number can be read in several ways, all but the first
    end in `#` and their rank. In `enter` and `leave` it is a module's name and the role,
    joined by a colon.

    `entries` has shape (units, width): row u lists the positions that belong to unit u,
    filled up with -1. A position that several groups list is kept when all of them keep it.
    """

    tensor: str
    dim: int
    size: int
    entries: np.ndarray
    role: Role

    @property
    def module(self) -> str:
        """Name of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]

    @cached_property
    def is_identity(self) -> bool:
        """Say whether position u belongs to unit u, and nothing else is there."""
        return self.entries.shape == (self.size, 1) and bool(
            (self.entries[:, 0] == np.arange(self.size)).all()
        )

    def lost(self, removed: np.ndarray) -> np.ndarray:
        """Return the positions that leave with some units, shape (n,)."""
        positions: np.ndarray = self.entries[removed].reshape(-1)
        return positions[positions >= 0]

    def of_units(self, values: np.ndarray) -> np.ndarray:
        """Return the part of every unit in the tensor's values, shape (units, n)."""
        rows: np.ndarray = np.moveaxis(values, self.dim, 0)[self.entries]
        return rows.reshape(len(self.entries), -1)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "tensor": self.tensor,
            "dim": self.dim,
            "size": self.size,
            "entries": self.entries.tolist(),
            "role": self.role,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Slice:
        """Rebuild a slice from `to_json`."""
        entries = np.asarray(body["entries"], dtype=np.int64)
        return cls(body["tensor"], body["dim"], body["size"], entries, body["role"])


@dataclass(frozen=True)
class PrunableGroup:
    """Units that must be removed together, named after the first layer that makes them.

    A frozen group stays whole; `reason` says why in words. The units of a `tempered` group
    are places within attention heads whose scores are divided by √(kept units): kernels
    that make them are multiplied by (kept / units)^¼ and those that read them divided by
    it, so that the scores stay what they were.
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    reason: str | None = None
    tempered: bool = False

    @property
    def is_frozen(self) -> bool:
        """Say whether the group must stay whole."""
        return self.reason is not None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules whose tensors the group touches, each once, in order."""
        return tuple(dict.fromkeys(each.module for each in self.slices if each.role in STORED))

    def with_slices(self, slices: Iterable[Slice]) -> PrunableGroup:
        """Return the same group with other slices."""
        return replace(self, slices=tuple(slices))

    def factors(self, kept: int) -> dict[str, float]:
        """Return by what the tensors of a tempered group are multiplied."""
        scale = (kept / self.units) ** 0.25 if self.tempered else 1.0
        powers = {"out": 1, "in": -1}
        return {
            each.tensor: scale ** powers[each.role] for each in self.slices if each.role in powers
        }

    def frozen(self, reason: str) -> PrunableGroup:
        """Return the same group, frozen for `reason`."""
        return replace(self, reason=reason)


class GroupTable:
    """All groups, blocks and layers of a network, in the order of its forward pass."""

    def __init__(
        self,
        groups: Iterable[PrunableGroup],
        blocks: Iterable[Block] = (),
        layers: Iterable[Layer] = (),
    ) -> None:
        self.groups = tuple(groups)
        self.blocks = tuple(blocks)
        self.layers = tuple(layers)
        self._by_name = {group.name: group for group in self.groups}
        self._blocks = {block.name: block for block in self.blocks}
        self._layers = {layer.name: layer for layer in self.layers}

    def __iter__(self) -> Iterator[PrunableGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> PrunableGroup:
        return self._by_name[name]

    @cached_property
    def prunable(self) -> tuple[PrunableGroup, ...]:
        """The groups that are not frozen."""
        return tuple(group for group in self.groups if not group.is_frozen)

    @cached_property
    def droppable(self) -> tuple[Block, ...]:
        """The blocks that are not frozen."""
        return tuple(block for block in self.blocks if not block.is_frozen)

    def dropped(self, policy: Policy) -> tuple[Block, ...]:
        """Return the blocks that a policy leaves out, in order.

        Raises `PolicyError` if it names a block that is unknown or frozen.
        """
        for name in sorted(policy.dropped):
            block = self._blocks.get(name)
            if block is None:
                allowed = suggestion(name, (each.name for each in self.droppable))
                raise PolicyError(
                    f"the policy drops block {name!r}, which does not exist; {allowed}"
                )
            if block.reason is not None:
                raise PolicyError(f"block {name!r} must stay: {block.reason}")
        return tuple(block for block in self.blocks if block.name in policy.dropped)

    def kept_units(self, policy: Policy) -> dict[str, int]:
        """Return the kept units of every prunable group, at least one each.

        Raises `PolicyError` if the policy names a group that is unknown or frozen.
        """
        for name, decision in policy.decisions.items():
            group = self._by_name.get(name)
            if group is None:
                allowed = suggestion(name, (each.name for each in self.prunable))
                raise PolicyError(
                    f"the policy names group {name!r}, which does not exist; {allowed}"
                )
            if group.reason is not None and decision.keep_ratio < 1.0:
                raise PolicyError(f"group {name!r} must stay whole: {group.reason}")
        return {
            group.name: max(1, round(policy.keep_ratio(group.name) * group.units))
            for group in self.prunable
        }

    def units(self, policy: Policy) -> dict[str, int]:
        """Return the units of every group that are there, of frozen groups all of them."""
        return {group.name: group.units for group in self.groups} | self.kept_units(policy)

    def canonical(self, policy: Policy) -> Policy:
        """Return the canonical form: whole units, what stays as it is left out.

        Left out as well are groups, blocks and layers that vanish with a dropped block, ranks
        that save nothing, and what the recipe says of steps that are not taken. Raises
        `PolicyError` for what the network does not have, or what cannot be done with it.
        """
        blocks = self.dropped(policy)
        outer = [
            block
            for block in blocks
            if not held((each for each in blocks if each is not block), block.adds)
        ]
        vanishing = self.vanishing(policy)
        units = self.units(policy)
        decisions = {
            name: Decision(kept / self[name].units)
            for name, kept in units.items()
            if kept < self[name].units and name not in vanishing
        }
        self.check_layers(policy)
        gone = self.gone_layers(policy)
        layers = {
            name: self._layers[name].in_use(decision, units)
            for name, decision in policy.layers.items()
            if name not in gone
        }
        changed = {name: each for name, each in layers.items() if each != UNTOUCHED}
        dropped = frozenset(block.name for block in outer)
        return Policy(decisions, policy.recipe, dropped, changed).with_recipe_in_use()

    def check_layers(self, policy: Policy) -> None:
        """Raise `PolicyError` for a layer that does not exist, or with which it cannot be done."""
        for name, decision in policy.layers.items():
            layer = self._layers.get(name)
            if layer is None:
                allowed = suggestion(name, (each.name for each in self.layers if not each.reason))
                raise PolicyError(
                    f"the policy names layer {name!r}, which does not exist; {allowed}"
                )
            layer.check(decision)

    def gone_layers(self, policy: Policy) -> frozenset[str]:
        """Return the layers that leave with the blocks that a policy drops."""
        blocks = self.dropped(policy)
        return frozenset(each.name for each in self.layers if blocks and held(blocks, each.name))

    def vanishing(self, policy: Policy) -> frozenset[str]:
        """Return the groups all of whose layers leave with the blocks that a policy drops."""
        blocks = self.dropped(policy)
        return frozenset(
            group.name
            for group in (self.prunable if blocks else ())
            if all(held(blocks, layer) for layer in group.layers)
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal table."""
        groups = [
            {
                "name": group.name,
                "units": group.units,
                "reason": group.reason,
                "tempered": group.tempered,
                "slices": [each.to_json() for each in group.slices],
            }
            for group in self.groups
        ]
        return {
            "groups": groups,
            "blocks": [block.to_json() for block in self.blocks],
            "layers": [layer.to_json() for layer in self.layers],
        }

    def placed(self, kept: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
        """Return the kept units of groups whose networks differ by which ones stay.

        `kept` are those of all groups, ascending. Of most groups their number makes the form of
        a network; but a shortcut that pads before and after, for example, counts what stayed on
        either side.
        """
        return {
            name: [int(unit) for unit in units]
            for name, units in kept.items()
            if any(each.role in _PLACED for each in self[name].slices)
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all groups, blocks and layers: equal architectures have equal ones."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> GroupTable:
        """Rebuild a table from `to_json`."""
        groups = [
            PrunableGroup(
                each["name"],
                each["units"],
                tuple(Slice.from_json(part) for part in each["slices"]),
                each["reason"],
                each["tempered"],
            )
            for each in body["groups"]
        ]
        blocks = (Block.from_json(each) for each in body["blocks"])
        return cls(groups, blocks, (Layer.from_json(each) for each in body["layers"]))
