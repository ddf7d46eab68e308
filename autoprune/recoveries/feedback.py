"""Dynamic pruning with feedback: weights that left go on learning and may come back."""

from __future__ import annotations

from typing import ClassVar

from autoprune.recoveries._chosen import Timed, cubic
from autoprune.recoveries._scheduled import Scheduled
from autoprune.recoveries._whole import Whole


class _Feedback(Whole):
    def renew(self, step: int) -> None:
        self.masks = self.best(cubic(step + 1, self.last))


class Feedback(Scheduled):
    """Pruning with feedback: gradients of the pruned network change the dense one.

    Lin et al., "Dynamic model pruning with feedback", ICLR 2020, algorithm 1: the gradient is
    taken at the masked weights, m ⊙ w, and changes all of w; masks are renewed from the
    magnitudes of w. The share that has left grows as in gradual pruning, 1 - (1 - t / T)³.

    Departures: every kernel has a share of its own, that of the policy; masks are renewed more
    often than after their 16 steps, as recoveries are short; after the last renewal what left
    is dropped, and the rest trains on. `clip` counts the gradients of what left as well.

    Args:
        every: steps from one renewal of the masks to the next, the paper's p.
        until: the share of the steps after which weights stay.
        options: those of `finetune`.
    """

    chooser: ClassVar[type[Timed]] = _Feedback
