"""Gradual magnitude pruning: ever more weights leave while the network trains."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Timed, Times, cubic
from autoprune.recoveries._masking import Masking
from autoprune.recoveries.finetune import Finetune


class Gradual(Finetune):
    """Gradual pruning: the smallest weights leave, many at first and few in the end.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017 (arXiv:1710.01878), equation 1: of all that leaves, the share
    1 - (1 - t / T)³ has left after t of T steps, the smallest of every kernel by their current
    magnitudes.

    Departures: every kernel has a share of its own, that of the policy, and starts whole; what
    left is zero, so that it never comes back.

    Args:
        every: steps from one choice to the next.
        until: the share of the steps after which nothing more leaves.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True

    def __init__(self, *, every: int = 5, until: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        self.times = Times(until, every)

    def masking(self, training: Training) -> Masking:
        """Return what lets ever more weights leave."""
        return _Gradual(training, self.times)


class _Gradual(Timed):
    def after(self, step: int) -> None:
        super().after(step)
        if self.is_due(step):
            self.take(self.best(cubic(step + 1, self.last)))
