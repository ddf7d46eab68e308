"""Soft filter pruning: kernels of the units that leave become zero, and may grow again."""

from __future__ import annotations

from typing import Any

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._leaving import Leaving, UnitRecovery
from autoprune.recoveries._units import leaving_units
from autoprune.surgery.removal import Removal


class SoftFilters(UnitRecovery):
    """Soft filter pruning: units become zero again and again, and train on in between.

    He et al., "Soft filter pruning for accelerating deep convolutional neural networks", IJCAI
    2018, algorithm 1: after every epoch the filters that leave are made zero, and all of them
    are trained in between.

    Departures: the paper takes the filters of the smallest norm anew every time; here the
    policy's counts and criterion choose them before the training, so that they follow from the
    policy alone. As in the paper, kernels alone become zero: with its shift at zero too, nothing
    would come back through a ReLU. After `until` of the steps all of a unit is zero and stays
    so, and the rest trains on without it.

    Args:
        every: steps from one time to the next (the paper's epoch).
        until: the share of the steps after which what is zero stays it.
        options: those of `finetune`, without `patience`; the schedule begins after `until`.
    """

    def __init__(self, *, every: int = 10, until: float = 0.75, **options: Any) -> None:
        super().__init__(until=until, **options)
        self.times = Times(until, every)

    def leaving(self, training: Training, removal: Removal) -> Leaving:
        """Return what makes kernels zero again and again."""
        return _Soft(training, removal, self.times)


class _Soft(Leaving):
    def __init__(self, training: Training, removal: Removal, times: Times) -> None:
        super().__init__(training, removal, times)
        units = leaving_units(removal, self.network)
        self._kernels = [part for each in units for part in each.kernels or each.parts]

    def after(self, step: int) -> None:
        super().after(step)
        if self.times.is_due(step + 1, self.training.steps):
            for each in self._kernels:
                each.clear()
