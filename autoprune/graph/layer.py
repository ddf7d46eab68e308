"""Layers that hold kernels, as plain data: what bits and ranks can be decided about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.graph.extent import Extent


@dataclass(frozen=True, slots=True)
class Layer:
    """A module with kernels, by its name, in the order of the forward pass.

    `kernels` are its kernels' names within the module and `outputs` how many output channels
    each has, which have a scale of their own where the kernel is quantised. `inputs` is set
    where the layer can be written as a product of two smaller ones, a linear layer or a 1×1
    convolution; its rank then is at most that of `outputs` and `inputs`.

    `reads` says whether its inputs can be quantised: not where it is several operations, or
    where another module does its work.
    A layer whose kernels cannot be quantised stays as it is; `reason` says why in words.
    """

    name: str
    kernels: tuple[str, ...]
    outputs: tuple[Extent, ...]
    inputs: Extent | None = None
    reads: bool = True
    reason: str | None = None

    def width(self, kept: Mapping[str, int]) -> int:
        """Return the output channels of all kernels together, with so many units kept."""
        return sum(each.length(kept) for each in self.outputs)

    def saves(self, rank: int, kept: Mapping[str, int]) -> bool:
        """Say whether the product of two layers of this rank is smaller than the one."""
        if self.inputs is None:
            return False
        outputs, inputs = self.width(kept), self.inputs.length(kept)
        return rank * (outputs + inputs) < outputs * inputs

    def to_json(self) -> list[Any]:
        """Return a JSON array."""
        inputs = None if self.inputs is None else self.inputs.to_json()
        outputs = [each.to_json() for each in self.outputs]
        return [self.name, list(self.kernels), outputs, inputs, self.reads, self.reason]

    @classmethod
    def from_json(cls, body: list[Any]) -> Layer:
        """Rebuild a layer from `to_json`."""
        name, kernels, outputs, inputs, reads, reason = body
        extents = tuple(Extent.from_json(each) for each in outputs)
        within = None if inputs is None else Extent.from_json(inputs)
        return cls(name, tuple(kernels), extents, within, reads, reason)
