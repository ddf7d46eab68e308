"""Growing regularisation: the weight decay of the units that leave rises until they are gone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._leaving import Leaving, UnitRecovery
from autoprune.recoveries._options import require_positive
from autoprune.recoveries._penalty import Penalised
from autoprune.recoveries._units import Units
from autoprune.surgery.removal import Removal


class Growing(UnitRecovery):
    """Growing regularisation: an L2 penalty on the units that leave, which rises step by step.

    Wang et al., "Neural pruning via growing regularization", ICLR 2021, algorithm 1 (GReg-1):
    the loss and λ / 2 Σ w², where λ rises by δλ after every K steps up to a ceiling and then
    stays. As in the paper, the units are those of the smallest L1 norm before the training,
    where the policy's criterion is `l1`.

    Departures: as always the policy's counts and criterion choose the units, so that they follow
    from the policy alone. w is all that makes a unit, not its kernels alone: also its biases and
    the scales and shifts of norms, which would undo what kernels lose. λ is δλ from the first
    step on, and δλ is fitted to the number of steps unless it is given (the paper's is 0.0001,
    with K = 10 and 100,000 steps). After `until` of the steps the units are zero, and the rest
    trains on without them.

    Args:
        step_size: δλ; by default the ceiling is reached half way to `until`.
        every: K, the steps from one rise to the next.
        ceiling: the largest λ.
        until: the share of the steps after which the units are zero.
        options: those of `finetune`, without `patience`; the schedule begins after `until`.
    """

    def __init__(
        self,
        *,
        step_size: float | None = None,
        every: int = 10,
        ceiling: float = 1.0,
        until: float = 0.75,
        **options: Any,
    ) -> None:
        super().__init__(until=until, **options)
        self.times = Times(until, every)
        if step_size is not None:
            require_positive("step_size", step_size)
        require_positive("ceiling", ceiling)
        self.step_size = step_size
        self.every = every
        self.ceiling = ceiling

    def leaving(self, training: Training, removal: Removal) -> Leaving:
        """Return what penalises squares."""
        last = self.times.last(training.steps)
        return Penalised(
            training,
            removal,
            self.times,
            penalty=_squares,
            factor=lambda step: self.factor(step, last),
        )

    def factor(self, step: int, last: int) -> float:
        """Return λ at a step, where the units become zero after `last` of them."""
        size = self.step_size
        if size is None:
            size = self.ceiling / max(1, last // 2 // self.every)
        return min(self.ceiling, size * (step // self.every + 1))


def _squares(units: Units) -> Tensor:
    """Return Σ w² / 2."""
    return 0.5 * units.values.square().sum()
