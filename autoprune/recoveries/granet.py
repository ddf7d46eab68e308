"""GraNet: ever more weights leave, and at every choice some grow again."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from autoprune.recoveries._chosen import cubic
from autoprune.recoveries._regrowth import Regrowing, decayed
from autoprune.recoveries._scheduled import Regrown


class _GraNet(Regrowing):
    def first(self) -> dict[str, Tensor]:
        return self.sparsity.masks(0.0)

    def see(self, step: int) -> None:
        if self.is_due(step):
            taken = step + 1
            drop = decayed(self.drop, taken, self.last)
            self.regrow(self.gradients(), drop, cubic(taken, self.last))
        super().see(step)


class GraNet(Regrown):
    """Gradual pruning with neuroregeneration: ever more weights leave, some grow by gradients.

    Liu et al., "Sparse training via boosting pruning plasticity with neuroregeneration",
    NeurIPS 2021, algorithm 1: at every choice a kernel is pruned to the share of gradual
    pruning, 1 - (1 - t / T)³ of all that leaves; then a share of what is left leaves as well,
    and as many of the largest gradients grow, from zero.

    Departures: from dense to sparse only, with shares of every kernel by the policy, not by one
    ranking of all; the regenerated share falls by a cosine, as their code has it, to zero at
    the last choice. In patterns as in `rigl`.

    Args:
        every: steps from one choice to the next.
        until: the share of the steps after which weights stay.
        drop: the share of the weights that would be regenerated at the start.
        options: those of `finetune`.
    """

    reads_criterion: ClassVar[bool] = False
    regrowing: ClassVar[type[Regrowing]] = _GraNet

    def __init__(self, *, drop: float = 0.5, **options: Any) -> None:
        super().__init__(drop=drop, **options)
