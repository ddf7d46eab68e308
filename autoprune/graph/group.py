"""Prunable groups as plain data: what must be removed together, and where.

Nothing here touches torch, so the front, the searchers and the client can read groups
without it. Groups are found by `autoprune.graph.discovery` and proven by
`autoprune.graph.proof`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from autoprune.errors import PolicyError, suggestion
from autoprune.policy import Decision, Policy

Side = Literal["out", "in"]


@dataclass(frozen=True)
class Slice:
    """One side of one module that loses entries when units leave.

    `entries` has shape (units, width): row u lists the positions, along the module's
    `side` dimension of `size` entries, that belong to unit u.
    """

    module: str
    side: Side
    size: int
    entries: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "module": self.module,
            "side": self.side,
            "size": self.size,
            "entries": self.entries.tolist(),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Slice:
        """Rebuild a slice from `to_json`."""
        entries = np.asarray(body["entries"], dtype=np.int64)
        return cls(body["module"], body["side"], body["size"], entries)


@dataclass(frozen=True)
class PrunableGroup:
    """Units that must be removed together, named after the first layer that makes them.

    A frozen group stays whole; `reason` says why in words.
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    reason: str | None = None

    @property
    def is_frozen(self) -> bool:
        """Say whether the group must stay whole."""
        return self.reason is not None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules that the group touches, each once, in order."""
        return tuple(dict.fromkeys(each.module for each in self.slices))

    def frozen(self, reason: str) -> PrunableGroup:
        """Return the same group, frozen for `reason`."""
        return replace(self, reason=reason)


class GroupTable:
    """All groups of a network, in the order of its forward pass."""

    def __init__(self, groups: Iterable[PrunableGroup]) -> None:
        self.groups = tuple(groups)
        self._by_name = {group.name: group for group in self.groups}

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

    def canonical(self, policy: Policy) -> Policy:
        """Return the canonical form: whole units, groups that stay whole left out."""
        decisions = {
            name: Decision(kept / self[name].units)
            for name, kept in self.kept_units(policy).items()
            if kept < self[name].units
        }
        return Policy(decisions, policy.recipe)

    def to_json(self) -> list[dict[str, Any]]:
        """Return a JSON array that `from_json` turns back into an equal table."""
        return [
            {
                "name": group.name,
                "units": group.units,
                "reason": group.reason,
                "slices": [each.to_json() for each in group.slices],
            }
            for group in self.groups
        ]

    @classmethod
    def from_json(cls, body: Iterable[Mapping[str, Any]]) -> GroupTable:
        """Rebuild a table from `to_json`."""
        return cls(
            PrunableGroup(
                each["name"],
                each["units"],
                tuple(Slice.from_json(part) for part in each["slices"]),
                each["reason"],
            )
            for each in body
        )
