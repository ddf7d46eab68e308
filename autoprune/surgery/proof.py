"""Proof that groups can be cut: cut them, run the network, compare outputs.

For each group, one unit and then half of the units are carved away. The carved network
must run, keep the shapes of its outputs, and give the outputs of its masked form, in which
the same units are zero. A group that fails is frozen with the reason in words; the others
go on. In the end half of every group is cut at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autoprune.graph.block import Block
from autoprune.graph.group import STORED, GroupTable, PrunableGroup
from autoprune.surgery.clone import cloned
from autoprune.surgery.masking import masked
from autoprune.surgery.plan import carved, entries_without, tensors_of
from autoprune.surgery.variants import PASSING, number_of, passed_module, variants
from autoprune.tracing.example import Example, call
from autoprune.tracing.example import tensors_of as outputs_of
from autoprune.tracing.recorder import evaluation_mode

TOLERANCE = 1e-4
_HIDDEN = 0.1  # share of a cut's effect below which a wrong cut would show
_ROUNDING = 1e-12
_MANY = 64  # units, of which a random half shows whether they are alike
ALONE_S = 60.0
"""Seconds for groups one by one; those left then are only proven together."""
TOGETHER_S = 60.0
"""Further seconds for all groups together and for blocks; what is left then stays."""
NO_TIME = "there was no time left to prove it; a smaller example input helps"


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
    if any(each.dtype in (torch.float16, torch.bfloat16) for each in model.parameters()):
        # Their rounding errors are larger than what is looked for.
        model, example = cloned(model, {}).float(), _cast(example, torch.float32)
    with evaluation_mode(model), torch.inference_mode():
        prover = _Prover(model, example)
        alone = [prover.judged(group) for group in groups]
        # A module at full width is so for every group that passes through it.
        bridged = {module for group in alone for module in _passed(group)}
        alone = [
            one if bridged.isdisjoint(_passed(group)) else prover.judged(group, bridged)
            for group, one in zip(groups, alone, strict=True)
        ]
        proven = prover.together(alone)
        return Proof(GroupTable(proven, prover.blocks(groups.blocks, proven)), prover.error)


class _Prover:
    def __init__(self, model: nn.Module, example: Example, *, is_exact: bool = False) -> None:
        self.model = model
        self.example = example
        self.error = 0.0
        self._is_exact = is_exact
        self._tensors = tensors_of(model)
        self._expected = self._outputs(model)
        self._readings: dict[str, str] = {}
        self._deadline = time.monotonic() + ALONE_S

    def judged(self, group: PrunableGroup, bridged: Collection[str] = frozenset()) -> PrunableGroup:
        """Return the group with the sizes that make it right, or frozen."""
        if group.is_frozen:
            return group
        if time.monotonic() > self._deadline:
            return self._chosen(next(variants(group, bridged, self._readings)))
        first: str | None = None
        for candidate in variants(group, bridged, self._readings):
            objection = self._objection_to_one(candidate)
            if objection is None:
                return self._chosen(self._needed(group, candidate))
            first = first or objection
        assert first is not None
        return group.frozen(first)

    def _needed(self, group: PrunableGroup, chosen: PrunableGroup) -> PrunableGroup:
        """Leave out numbers with several readings if the network works without them."""
        read = Counter(number_of(each) for each in group.slices if each.role == "size")
        for number in [each for each, count in read.items() if count > 1]:
            rest = [x for x in chosen.slices if x.role != "size" or number_of(x) != number]
            fewer = chosen.with_slices(rest)
            if len(rest) < len(chosen.slices) and self._objection_to_one(fewer) is None:
                chosen = fewer
        return chosen

    def _chosen(self, group: PrunableGroup) -> PrunableGroup:
        """Note how a group reads the numbers that follow it, for the groups to come."""
        sizes = (each for each in group.slices if each.role == "size")
        self._readings |= {number_of(each): each.tensor for each in sizes}
        return group

    def together(self, groups: Sequence[PrunableGroup]) -> list[PrunableGroup]:
        """Freeze groups that can be cut alone but not together with the others."""
        admitted: list[PrunableGroup] = []
        self._admit(admitted, [group for group in groups if not group.is_frozen])
        names = {group.name for group in admitted}
        is_late = time.monotonic() > self._deadline + TOGETHER_S
        reason = NO_TIME if is_late else "together with other groups it breaks the network"
        return [
            group if group.is_frozen or group.name in names else group.frozen(reason)
            for group in groups
        ]

    def blocks(self, blocks: Iterable[Block], groups: Iterable[PrunableGroup]) -> list[Block]:
        """Freeze blocks that cannot be left out, alone or together with everything else."""
        halves = [_half(group) for group in groups if not group.is_frozen]
        judged: list[Block] = []
        for block in blocks:
            if time.monotonic() > self._deadline + TOGETHER_S:
                judged.append(block.frozen(NO_TIME))
                continue
            free = [each for each in judged if not each.is_frozen]
            objection = self._objection([], [block]) or self._objection(halves, [*free, block])
            judged.append(block.frozen(f"without it {objection}") if objection else block)
        return judged

    def _admit(self, admitted: list[PrunableGroup], waiting: list[PrunableGroup]) -> None:
        """Add those groups, in halves where they fail, that work with the ones admitted."""
        if time.monotonic() > self._deadline + TOGETHER_S:
            return
        if not waiting or self._objection([_half(each) for each in (*admitted, *waiting)]) is None:
            admitted += waiting
        elif len(waiting) > 1:
            middle = len(waiting) // 2
            self._admit(admitted, waiting[:middle])
            self._admit(admitted, waiting[middle:])

    def _objection_to_one(self, group: PrunableGroup) -> str | None:
        order, half = _order(group), group.units // 2
        cuts = [order < 1, order < half]
        if group.units < _MANY or any(each.role not in STORED for each in group.slices):
            # Few units, or numbers that count some of them: the others leave as well.
            cuts.append(order >= group.units - half)
        for gone in cuts:
            objection = self._objection([(group, gone)])
            if objection is not None:
                return f"without {gone.sum()} of its units {objection}"
        return None

    def _objection(
        self, removed: Sequence[tuple[PrunableGroup, np.ndarray]], blocks: Sequence[Block] = ()
    ) -> str | None:
        """Say why the network breaks without some units, true in a mask, and blocks, or None."""
        kept, factors = entries_without(removed, blocks), _factors(removed)
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
            return exact._objection(removed, blocks)
        self.error = max(self.error, difference)
        return None

    @cached_property
    def _exact(self) -> _Prover | None:
        """The same in double precision, or None where the network does not run in it."""
        if self._is_exact:
            return None
        try:
            twin = cloned(self.model, {}).double()
            return _Prover(twin, _cast(self.example, torch.float64), is_exact=True)
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


def _order(group: PrunableGroup) -> np.ndarray:
    """Return when each unit leaves; in no pattern, or one head would look like another."""
    return np.random.default_rng(0).permutation(group.units)


def _half(group: PrunableGroup) -> tuple[PrunableGroup, np.ndarray]:
    return group, _order(group) < group.units // 2


def _factors(removed: Iterable[tuple[PrunableGroup, np.ndarray]]) -> dict[str, float]:
    """Return by what tensors are multiplied when units of tempered groups leave."""
    factors: dict[str, float] = {}
    for group, gone in removed:
        for tensor, factor in group.factors(int((~gone).sum())).items():
            factors[tensor] = factors.get(tensor, 1.0) * factor
    return factors


def _passed(group: PrunableGroup) -> set[str]:
    """Return the modules that may run, or do run, at their full width for a group."""
    slices = () if group.is_frozen else group.slices
    return {passed_module(each) for each in slices if each.role in PASSING}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
