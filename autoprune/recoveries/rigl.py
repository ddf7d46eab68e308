"""RigL: small weights leave, others grow where the loss would fall fastest."""

from __future__ import annotations

from typing import ClassVar

from autoprune.recoveries._regrowth import Regrowing, decayed
from autoprune.recoveries._scheduled import Regrown


class _RigL(Regrowing):
    def see(self, step: int) -> None:
        if self.is_due(step):
            self.regrow(self.gradients(), decayed(self.drop, step + 1, self.last))
        super().see(step)


class RigL(Regrown):
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

    regrowing: ClassVar[type[Regrowing]] = _RigL
