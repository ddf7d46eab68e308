"""Gradual magnitude pruning: ever more weights leave while the network trains."""

from __future__ import annotations

from typing import ClassVar

from autoprune.recoveries._chosen import Timed, cubic
from autoprune.recoveries._scheduled import Scheduled


class _Gradual(Timed):
    def after(self, step: int) -> None:
        super().after(step)
        if self.is_due(step):
            self.take(self.best(cubic(step + 1, self.last)))


class Gradual(Scheduled):
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

    chooser: ClassVar[type[Timed]] = _Gradual
