"""One tensor of a network and what each of its elements costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autoprune.graph.extent import Extent


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
        extents = [each.to_json() for each in self.extents]
        per_element = [self.macs, self.params, self.item_bytes, self.written_bytes]
        return [self.module, self.constant, extents, *per_element]

    @classmethod
    def from_json(cls, body: Iterable[Any]) -> CostRow:
        """Rebuild a row from `to_json`."""
        module, constant, extents, *rest = body
        return cls(module, constant, tuple(map(Extent.from_json, extents)), *rest)
