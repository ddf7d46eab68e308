"""One cut, carried out and masked: do both networks compute the same?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autoprune.graph.block import Block
from autoprune.surgery.clone import cloned
from autoprune.surgery.masking import masked
from autoprune.surgery.plan import Removed, carved, entries_without, factors_without, tensors_of
from autoprune.tracing.example import Example, call
from autoprune.tracing.example import tensors_of as outputs_of

TOLERANCE = 1e-4
_HIDDEN = 0.1  # share of a cut's effect below which a wrong cut would show
_ROUNDING = 1e-12


class Comparison:
    """Cuts one network again and again, and holds the result against its masked form.

    `error` is the largest difference so far among cuts that passed, relative to the
    largest output, or to one where outputs are smaller.
    """

    def __init__(self, model: nn.Module, example: Example, *, is_exact: bool = False) -> None:
        if any(each.dtype in (torch.float16, torch.bfloat16) for each in model.parameters()):
            # Their rounding errors are larger than what is looked for.
            model, example = cloned(model, {}).float(), _cast(example, torch.float32)
        self.model = model
        self.example = example
        self.error = 0.0
        self._is_exact = is_exact
        self._tensors = tensors_of(model)
        self._expected = self._outputs(model)

    def objection(self, removed: Removed, blocks: Sequence[Block] = ()) -> str | None:
        """Say why the network breaks without some units, true in a mask, and blocks, or None."""
        kept, factors = entries_without(removed, blocks), factors_without(removed)
        try:
            outputs = self._outputs(
                carved(self.model, self._tensors, kept, factors, blocks, share=True)
            )
        except Exception as error:  # whatever a broken network raises, it is broken
            return f"the network fails: {_first_line(error)}"
        shapes = [tuple(each.shape) for each in outputs]
        expected = [tuple(each.shape) for each in self._expected]
        if shapes != expected:
            return f"the outputs have shapes {shapes} instead of {expected}"
        silenced = self._outputs(masked(self.model, self._tensors, kept, blocks))
        difference = self._difference(outputs, silenced)
        effect = self._difference(silenced, self._expected)
        allowed = min(TOLERANCE, _HIDDEN * effect + _ROUNDING) if self._is_exact else TOLERANCE
        if not difference <= allowed:
            return (
                f"the outputs differ by {difference:.1e} from the network with zeros in their place"
            )
        if difference > _HIDDEN * effect and (exact := self._exact) is not None:
            # So faint an effect could hide a wrong cut in rounding errors: look closer.
            return exact.objection(removed, blocks)
        self.error = max(self.error, difference)
        return None

    @cached_property
    def _exact(self) -> Comparison | None:
        """The same in double precision, or None where the network does not run in it."""
        if self._is_exact:
            return None
        try:
            twin = cloned(self.model, {}).double()
            return Comparison(twin, _cast(self.example, torch.float64), is_exact=True)
        except Exception:  # whatever a network raises that insists on its number format
            return None

    def _outputs(self, network: nn.Module) -> list[Tensor]:
        return outputs_of(call(network, self.example))

    @staticmethod
    def _difference(outputs: Sequence[Tensor], silenced: Sequence[Tensor]) -> float:
        scale = max(1.0, *(float(each.abs().max()) for each in silenced))
        pairs = zip(outputs, silenced, strict=True)
        return max(float((one - other).abs().max()) for one, other in pairs) / scale


def _cast(example: Example, dtype: torch.dtype) -> Example:
    """Return an example input with its floating tensors in another number format."""
    cast: Example = tree_map_only(
        Tensor, lambda each: each.to(dtype) if each.is_floating_point() else each, example
    )
    return cast


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
