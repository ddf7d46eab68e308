"""RigL: small weights leave, others grow where the loss would fall fastest."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_share
from autoprune.recoveries._regrowth import Regrowing, decayed
from autoprune.recoveries.finetune import Finetune


class RigL(Finetune):
    """RigL: the smallest weights leave, as many grow where gradients are largest.

    Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020, algorithm 1: the
    share α / 2 (1 + cos(π t / T)) of a kernel's weights is replaced, and what grows starts at
    zero. It starts with the weights that the policy's criterion keeps.

    Departures: the step of a change is also one of the optimizer, with the gradients that were
    looked at; in N:M weights grow in the groups in which others were dropped, and blocks by the
    mean of their gradients' magnitudes.

    Args:
        every: steps from one change to the next, the paper's ΔT.
        until: the share of the steps after which weights stay, the paper's T_end.
        drop: the share of the weights that would be replaced at the start, the paper's α.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True

    def __init__(
        self, *, every: int = 10, until: float = 0.75, drop: float = 0.3, **options: Any
    ) -> None:
        super().__init__(**options)
        require_share("drop", drop)
        self.times = Times(until, every)
        self.drop = drop

    def masking(self, training: Training) -> Masking:
        """Return what replaces weights by the gradients of those that are not there."""
        return _RigL(training, self.times, self.drop)


class _RigL(Regrowing):
    def __init__(self, training: Training, times: Times, drop: float) -> None:
        super().__init__(training, times)
        self.drop = drop

    def see(self, step: int) -> None:
        if self.is_due(step):
            self.regrow(self.gradients(), decayed(self.drop, step + 1, self.last))
        super().see(step)
