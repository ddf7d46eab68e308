"""Units that leave a dense network after a training that prepares for it."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._schedule import share_of_rate
from autoprune.recoveries.finetune import Finetune
from autoprune.surgery.depth import silence
from autoprune.surgery.masking import norms_without
from autoprune.surgery.removal import Removal
from autoprune.surgery.sparsify import settle


class UnitRecovery(Finetune):
    """Trains the dense network, without its units from a share `until` of the steps on.

    While units leave the learning rate stays what it is (after its warm-up); its schedule takes
    the steps after that, so that the rest of the network can still adapt. Where nothing is
    removed it is fine-tuning.
    """

    begins_dense: ClassVar[bool] = True

    def __init__(self, *, until: float = 0.75, **options: Any) -> None:
        super().__init__(**options)
        self.times = Times(until)
        if self.patience is not None:
            raise ValueError(
                "patience may end the training before the units have left; leave it out"
            )

    def share_of_rate(self, training: Training, step: int) -> float:
        """Return all of the rate while units leave; the schedule begins once they have left."""
        last = self.times.last(training.steps)
        if training.removal is None:
            return super().share_of_rate(training, step)
        if step < last:
            return share_of_rate("constant", step, training.steps, self.warmup)
        return share_of_rate(self.schedule, step - last, training.steps - last, 0.0)

    def masking(self, training: Training) -> Masking:
        """Return what lets units leave."""
        if training.removal is None:
            return super().masking(training)
        return self.leaving(training, training.removal)

    @abstractmethod
    def leaving(self, training: Training, removal: Removal) -> Leaving:
        """Return what lets the units of a removal leave."""


class Leaving(Masking):
    """All that makes, follows and reads the units is zero after the first `last` steps.

    Blocks that leave add nothing from the first step on. Everything follows from the step.
    """

    def __init__(self, training: Training, removal: Removal, times: Times) -> None:
        super().__init__(training)
        self.removal = removal
        self.times = times
        self.last = times.last(training.steps)
        silence(self.network, removal.plan.groups.dropped(removal.policy))
        self._all = self.stays()

    def stays(self, share: float = 1.0) -> dict[str, Tensor]:
        """Return what stays of parameters when a share of the units has left."""
        # A weight-normed kernel is divided by its norm: its length alone becomes zero.
        masks = self.removal.masks(share)
        return {name: each for name, each in masks.items() if not name.endswith(".original1")}

    def left(self, taken: int) -> dict[str, Tensor]:
        """Return what stays of parameters once so many steps were taken."""
        return self._all if taken >= self.last else {}

    def passing(self, step: int) -> AbstractContextManager[object]:
        """Let norms over units leave out those that left, as they will without them."""
        return norms_without(self.network, self.left(step))

    def after(self, step: int) -> None:
        """Keep what left at zero."""
        super().after(step)
        settle(self.network, self.left(step + 1))

    def end(self) -> None:
        """Leave the network without the units."""
        super().end()
        settle(self.network, self._all)
