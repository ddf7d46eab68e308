"""Proof that groups can be cut: cut them, run the network, compare outputs.

For each group, one unit and then half of the units are carved away. The carved network
must run, keep the shapes of its outputs, and give the outputs of its masked form, in which
the same units are zero. A group that fails is frozen with the reason in words; the others
go on. In the end half of every group is cut at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph.group import GroupTable, PrunableGroup, Slice
from autoprune.surgery.masking import masked
from autoprune.surgery.plan import Place, carved, tensors_of
from autoprune.tracing.example import Example, call
from autoprune.tracing.example import tensors_of as outputs_of
from autoprune.tracing.recorder import evaluation_mode

TOLERANCE = 1e-4
ALONE_S = 60.0
"""Seconds for groups one by one; those left then are only proven together."""


@dataclass(frozen=True)
class Proof:
    """Groups, frozen where they failed, and the largest difference among those that passed."""

    groups: GroupTable
    error: float


def prove(model: nn.Module, groups: GroupTable, example: Example) -> Proof:
    """Return `groups` with every group frozen that breaks the network when it is cut.

    `example` has the batch first; two samples are enough. The error is relative to the
    largest output, or to one where outputs are smaller.
    """
    with evaluation_mode(model), torch.inference_mode():
        prover = _Prover(model, example)
        alone = [group if group.is_frozen else prover.judged(group) for group in groups]
        return Proof(GroupTable(prover.together(alone)), prover.error)


class _Prover:
    def __init__(self, model: nn.Module, example: Example) -> None:
        self.model = model
        self.example = example
        self.error = 0.0
        self._tensors = tensors_of(model)
        self._expected = self._outputs(model)
        self._deadline = time.monotonic() + ALONE_S

    def judged(self, group: PrunableGroup) -> PrunableGroup:
        """Return the group with the sizes that make it right, or frozen."""
        if time.monotonic() > self._deadline:
            return group
        first: str | None = None
        for candidate in _variants(group):
            objection = self._objection_to_one(candidate)
            if objection is None:
                return candidate
            first = first or objection
        assert first is not None
        return group.frozen(first)

    def together(self, groups: Sequence[PrunableGroup]) -> list[PrunableGroup]:
        """Freeze groups that can be cut alone but not together with the others."""
        admitted: list[PrunableGroup] = []
        self._admit(admitted, [group for group in groups if not group.is_frozen])
        names = {group.name for group in admitted}
        reason = "together with other groups it breaks the network"
        return [
            group if group.is_frozen or group.name in names else group.frozen(reason)
            for group in groups
        ]

    def _admit(self, admitted: list[PrunableGroup], waiting: list[PrunableGroup]) -> None:
        """Add those groups, in halves where they fail, that work with the ones admitted."""
        halves = {group.name: group.units // 2 for group in (*admitted, *waiting)}
        if not waiting or self._objection([*admitted, *waiting], halves) is None:
            admitted += waiting
        elif len(waiting) > 1:
            middle = len(waiting) // 2
            self._admit(admitted, waiting[:middle])
            self._admit(admitted, waiting[middle:])

    def _objection_to_one(self, group: PrunableGroup) -> str | None:
        for removed in dict.fromkeys((1, group.units // 2)):
            objection = self._objection([group], {group.name: removed})
            if objection is not None:
                return f"without {removed} of its units {objection}"
        return None

    def _objection(self, groups: Iterable[PrunableGroup], removed: dict[str, int]) -> str | None:
        """Say why the network breaks when the last units of `groups` leave, or None."""
        kept = _kept(groups, removed)
        try:
            outputs = self._outputs(carved(self.model, self._tensors, kept, share=True))
        except Exception as error:  # whatever a broken network raises, it is broken
            return f"the network fails: {_first_line(error)}"
        shapes = [tuple(each.shape) for each in outputs]
        expected = [tuple(each.shape) for each in self._expected]
        if shapes != expected:
            return f"the outputs have shapes {shapes} instead of {expected}"
        difference = self._difference(
            outputs, self._outputs(masked(self.model, self._tensors, kept))
        )
        if not difference <= TOLERANCE:
            return (
                f"the outputs differ by {difference:.1e} from the network with zeros in their place"
            )
        self.error = max(self.error, difference)
        return None

    def _outputs(self, network: nn.Module) -> list[Tensor]:
        return outputs_of(call(network, self.example))

    @staticmethod
    def _difference(outputs: Sequence[Tensor], silenced: Sequence[Tensor]) -> float:
        scale = max(1.0, *(float(each.abs().max()) for each in silenced))
        pairs = zip(outputs, silenced, strict=True)
        return max(float((one - other).abs().max()) for one, other in pairs) / scale


def _kept(groups: Iterable[PrunableGroup], removed: dict[str, int]) -> dict[Place, np.ndarray]:
    """Return which entries stay when the last units of every group leave."""
    masks: dict[Place, np.ndarray] = {}
    for group in groups:
        for each in group.slices:
            mask = masks.setdefault((each.tensor, each.dim), np.ones(each.size, dtype=bool))
            mask[each.entries[group.units - removed[group.name] :]] = False
    return masks


def _variants(group: PrunableGroup) -> Iterator[PrunableGroup]:
    """Yield the group with all remembered sizes, with none, with one, and without one."""
    kinds: dict[str, list[Slice]] = {}
    for each in group.slices:
        if each.role == "size":
            # Repeated blocks are of one kind: they stand or fall together.
            kinds.setdefault(re.sub(r"\d+", "#", each.tensor) + f"[{each.dim}]", []).append(each)
    yield group
    if kinds:
        yield group.without(each for several in kinds.values() for each in several)
    if len(kinds) > 2:
        for several in kinds.values():
            yield group.without(several)
    if len(kinds) > 1:
        for chosen in kinds:
            others = (several for kind, several in kinds.items() if kind != chosen)
            yield group.without(each for several in others for each in several)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
