"""Layers that hold kernels, as plain data: what bits, ranks and sparsity are decided about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoprune.errors import PolicyError
from autoprune.graph.extent import Extent
from autoprune.policy import WHOLE_NUMBERS, LayerDecision


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

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the kernels in the network."""
        return tuple(f"{self.name}.{each}" if self.name else each for each in self.kernels)

    def width(self, kept: Mapping[str, int]) -> int:
        """Return the output channels of all kernels together, with so many units kept."""
        return sum(each.length(kept) for each in self.outputs)

    def saves(self, rank: int, kept: Mapping[str, int]) -> bool:
        """Say whether the product of two layers of this rank is smaller than the one."""
        if self.inputs is None:
            return False
        outputs, inputs = self.width(kept), self.inputs.length(kept)
        return rank * (outputs + inputs) < outputs * inputs

    def check(self, decision: LayerDecision) -> None:
        """Raise `PolicyError` where a decision cannot be carried out on this layer."""
        if self.reason is not None and decision.is_quantised:
            raise PolicyError(f"layer {self.name!r} cannot be quantised: {self.reason}")
        if not self.reads and decision.activation_bits < 32:
            raise PolicyError(
                f"what layer {self.name!r} reads cannot be quantised, since it is not run by "
                "itself or is several operations; give its weight_bits alone"
            )
        if self.inputs is None and decision.rank is not None:
            raise PolicyError(
                f"layer {self.name!r} has no rank; linear layers and 1×1 convolutions in one "
                "group have"
            )
        if decision.is_sparse and self.reason is not None:
            raise PolicyError(f"weights of layer {self.name!r} must all stay: {self.reason}")
        if decision.pattern is not None and not self.reads:
            raise PolicyError(
                f"weights of layer {self.name!r} cannot leave in a pattern ({decision.pattern}), "
                "since it is not run by itself or is several operations; give keep_ratio alone"
            )

    def in_use(self, decision: LayerDecision, kept: Mapping[str, int]) -> LayerDecision:
        """Return a decision without what has no effect, with so many units kept.

        That is a rank that saves nothing, whole numbers read by kernels that are none, and
        weights that leave of a layer which two others replace.
        """
        if decision.rank is not None and not self.saves(decision.rank, kept):
            decision = replace(decision, rank=None)
        if decision.rank is not None and decision.is_sparse:
            decision = replace(decision, keep_ratio=1.0, pattern=None)
        if decision.activation_bits <= WHOLE_NUMBERS < decision.weight_bits:
            decision = replace(decision, activation_bits=decision.weight_bits)
        return decision

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
