"""Lengths of dimensions that follow how many units are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True, slots=True)
class Extent:
    """The length of a dimension: `fixed` + Σ width · Π kept units of some groups.

    `parts` lists pairs of a width and the groups whose kept units are multiplied.
    """

    fixed: int
    parts: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def length(self, kept: Mapping[str, int]) -> int:
        """Return the length where so many units of every group are kept."""
        return self.fixed + sum(
            width * prod(kept[name] for name in names) for width, names in self.parts
        )

    def to_json(self) -> list[Any]:
        """Return a JSON array."""
        return [self.fixed, [[width, list(names)] for width, names in self.parts]]

    @classmethod
    def from_json(cls, body: Iterable[Any]) -> Extent:
        """Rebuild an extent from `to_json`."""
        fixed, parts = body
        return cls(fixed, tuple((width, tuple(names)) for width, names in parts))
