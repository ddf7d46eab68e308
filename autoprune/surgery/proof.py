"""Proof that groups can be cut: cut them, run the network, compare outputs.

For each group, one unit and then half of the units are carved away. The carved network
must run, keep the shapes of its outputs, and give the outputs of its masked form, in which
the same units are zero. A group that fails is frozen with the reason in words; the others
go on. In the end half of every group is cut at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoprune.graph.block import Block
from autoprune.graph.group import STORED, GroupTable, PrunableGroup
from autoprune.surgery.comparison import Comparison
from autoprune.surgery.variants import PASSING, number_of, passed_module, variants
from autoprune.tracing.example import Example
from autoprune.tracing.recorder import evaluation_mode

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


def prove(
    model: nn.Module,
    groups: GroupTable,
    example: Example,
    settled: Iterable[tuple[PrunableGroup, PrunableGroup]] = (),
) -> Proof:
    """Return `groups` with every group frozen that breaks the network when it is cut.

    `example` has the batch first; two samples are enough. `settled` pairs groups, as found,
    with what an earlier proof made of them; found again, they are not tried again. The
    error is relative to the largest output, or to one where outputs are smaller.
    """
    with evaluation_mode(model), torch.inference_mode():
        comparison = Comparison(model, example)
        prover = _Prover(comparison, settled)
        alone = [prover.judged(group) for group in groups]
        # A module at full width is so for every group that passes through it.
        bridged = {module for group in alone for module in _passed(group)}
        alone = [
            one if bridged.isdisjoint(_passed(group)) else prover.judged(group, bridged)
            for group, one in zip(groups, alone, strict=True)
        ]
        proven = prover.together(alone)
        blocks = prover.blocks(groups.blocks, proven)
        return Proof(GroupTable(proven, blocks, groups.layers), comparison.error)


class _Prover:
    def __init__(
        self,
        comparison: Comparison,
        settled: Iterable[tuple[PrunableGroup, PrunableGroup]],
    ) -> None:
        self._objection = comparison.objection
        self._settled = {_content(found): judged for found, judged in settled}
        self._readings: dict[str, str] = {}
        self._deadline = time.monotonic() + ALONE_S

    def judged(self, group: PrunableGroup, bridged: Set[str] = frozenset()) -> PrunableGroup:
        """Return the group with the sizes that make it right, or frozen."""
        if group.is_frozen:
            return group
        earlier = self._settled.get(_content(group))
        if earlier is not None and bridged.isdisjoint(_passed(group)):
            return earlier if earlier.is_frozen else self._chosen(earlier)
        if time.monotonic() > self._deadline:
            return self._chosen(next(variants(group, bridged, self._readings)))
        first: str | None = None
        for candidate in variants(group, bridged, self._readings):
            objection = self._objection_to_one(candidate)
            if objection is None:
                return self._chosen(self._needed(group, candidate))
            first = first or objection
            if time.monotonic() > self._deadline:
                break
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
        """Freeze blocks that cannot be left out, alone or together with everything else.

        Also without one unit of every group: code that splits what now passes by may take any
        half of it, but not an odd rest.
        """
        prunable = [group for group in groups if not group.is_frozen]
        halves = [_half(group) for group in prunable]
        ones = [(group, _order(group) < 1) for group in prunable]
        judged: list[Block] = []
        for block in blocks:
            if time.monotonic() > self._deadline + TOGETHER_S:
                judged.append(block.frozen(NO_TIME))
                continue
            free = [each for each in judged if not each.is_frozen]
            objection = (
                self._objection([], [block])
                or self._objection(ones, [block])
                or self._objection(halves, [*free, block])
            )
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


def _content(group: PrunableGroup) -> tuple[object, ...]:
    """Return what tells groups apart: equal for two that lose the same entries."""
    slices = ((x.tensor, x.dim, x.role, x.entries.tobytes()) for x in group.slices)
    return (group.name, group.units, *slices)


def _order(group: PrunableGroup) -> np.ndarray:
    """Return when each unit leaves; in no pattern, or one head would look like another."""
    return np.random.default_rng(0).permutation(group.units)


def _half(group: PrunableGroup) -> tuple[PrunableGroup, np.ndarray]:
    return group, _order(group) < group.units // 2


def _passed(group: PrunableGroup) -> set[str]:
    """Return the modules that may run, or do run, at their full width for a group."""
    slices = () if group.is_frozen else group.slices
    return {passed_module(each) for each in slices if each.role in PASSING}
