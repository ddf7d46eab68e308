"""Soft pruning: weights become zero again and again, and may grow in between."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.recoveries._chosen import Timed
from autoprune.recoveries._scheduled import Scheduled
from autoprune.surgery.sparsify import settle


class _Soft(Timed):
    def after(self, step: int) -> None:
        super().after(step)
        if step + 1 == self.last:
            self.cut()
        elif self.is_due(step):
            settle(self.network, self.best())


class Soft(Scheduled):
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

    chooser: ClassVar[type[Timed]] = _Soft

    def __init__(self, *, every: int = 10, **options: Any) -> None:
        super().__init__(every=every, **options)
