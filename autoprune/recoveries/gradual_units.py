"""Gradual pruning of units: ever more of them are zero while the network trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times, cubic
from autoprune.recoveries._leaving import Leaving, UnitRecovery
from autoprune.surgery.removal import Removal


class GradualUnits(UnitRecovery):
    """Gradual pruning of whole units: many leave at first and few in the end.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017 (arXiv:1710.01878), equation 1: of all that leaves, the share
    1 - (1 - t / T)³ has left after t of T steps.

    Departures: units leave, not single weights. The paper takes those that are smallest at the
    time; here the policy's counts and criterion choose them before the training, so that they
    follow from the policy alone, and those that score least leave first. The units of every
    group leave alike. What left is zero, and stays so.

    Args:
        every: steps from one time that units leave to the next.
        until: the share of the steps after which all of them have left.
        options: those of `finetune`, without `patience`; the schedule begins after `until`.
    """

    def __init__(self, *, every: int = 10, until: float = 0.75, **options: Any) -> None:
        super().__init__(until=until, **options)
        self.times = Times(until, every)

    def leaving(self, training: Training, removal: Removal) -> Leaving:
        """Return what lets ever more units leave."""
        return _Gradual(training, removal, self.times)


class _Gradual(Leaving):
    def __init__(self, training: Training, removal: Removal, times: Times) -> None:
        super().__init__(training, removal, times)
        self._known: tuple[int, dict[str, Tensor]] = 0, {}

    def left(self, taken: int) -> dict[str, Tensor]:
        if taken >= self.last:
            return super().left(taken)
        assert self.times.every is not None
        at = taken - taken % self.times.every
        if at != self._known[0]:
            self._known = at, self.stays(cubic(at, self.last))
        return self._known[1]
