"""Blocks as plain data: branches of a network that may be left out whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Block:
    """A branch whose result is added to what flows past it: without it, nothing is added.

    `modules` are those that only the branch runs, in their order; `adds` is the one whose
    output becomes zero, the others pass on what they get. `outputs` counts the values that
    each of them returns in a tuple, 0 where it returns one tensor. A frozen block stays;
    `reason` says why in words.
    """

    name: str
    modules: tuple[str, ...]
    adds: str
    outputs: tuple[int, ...]
    reason: str | None = None

    @property
    def is_frozen(self) -> bool:
        """Say whether the block must stay."""
        return self.reason is not None

    def frozen(self, reason: str) -> Block:
        """Return the same block, frozen for `reason`."""
        return replace(self, reason=reason)

    def holds(self, module: str) -> bool:
        """Say whether a module is one of the block's, or lies within one."""
        return any(module == each or module.startswith(f"{each}.") for each in self.modules)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "name": self.name,
            "modules": list(self.modules),
            "adds": self.adds,
            "outputs": list(self.outputs),
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Block:
        """Rebuild a block from `to_json`."""
        lists = {key: tuple(body[key]) for key in ("modules", "outputs")}
        return cls(**{**body, **lists})


def held(blocks: Iterable[Block], module: str) -> bool:
    """Say whether one of several blocks holds a module."""
    return any(block.holds(module) for block in blocks)
