"""Soft pruning: weights become zero again and again, and may grow in between."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Timed, Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries.finetune import Finetune
from autoprune.surgery.sparsify import settle


class Soft(Finetune):
    """Soft pruning: the smallest weights become zero, and grow again until the next time.

    He et al., "Soft filter pruning for accelerating deep convolutional neural networks", IJCAI
    2018, algorithm 1: the smallest by their norm are made zero after every epoch, all that
    leaves from the first time on, and all weights are trained in between.

    Departures: single weights, not filters; after the last time the rest trains on alone.

    Args:
        every: steps from one time to the next (the paper's epoch).
        until: the share of the steps after which what is zero stays it.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True

    def __init__(self, *, every: int = 10, until: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        self.times = Times(until, every)

    def masking(self, training: Training) -> Masking:
        """Return what makes weights zero again and again."""
        return _Soft(training, self.times)


class _Soft(Timed):
    def after(self, step: int) -> None:
        super().after(step)
        if step + 1 == self.last:
            self.cut()
        elif self.is_due(step):
            settle(self.network, self.best())
