"""Recoveries that choose single weights at some times while they train."""

from __future__ import annotations

from typing import Any, ClassVar

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Timed, Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_share
from autoprune.recoveries._regrowth import Regrowing
from autoprune.recoveries.finetune import Finetune


class Scheduled(Finetune):
    """Fine-tuning in which `chooser` says at some times which weights stay."""

    chooses_weights: ClassVar[bool] = True
    reads_criterion: ClassVar[bool] = False
    chooser: ClassVar[type[Timed]]

    def __init__(self, *, every: int = 5, until: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        self.times = Times(until, every)

    def masking(self, training: Training) -> Masking:
        """Return what chooses."""
        return self.chooser(training, self.times)


class Regrown(Scheduled):
    """Fine-tuning in which weights are dropped at some times, and others grow."""

    reads_criterion: ClassVar[bool] = True
    regrowing: ClassVar[type[Regrowing]]

    def __init__(
        self, *, every: int = 10, until: float = 0.75, drop: float = 0.3, **options: Any
    ) -> None:
        super().__init__(every=every, until=until, **options)
        require_share("drop", drop)
        self.drop = drop

    def masking(self, training: Training) -> Masking:
        """Return what drops and grows."""
        return self.regrowing(training, self.times, self.drop)
