"""Movement pruning: weights leave that training moves towards zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Timed, Times, cubic
from autoprune.recoveries._scheduled import Scheduled
from autoprune.recoveries._whole import Whole


class _Movement(Whole):
    def __init__(self, training: Training, times: Times) -> None:
        super().__init__(training, times)
        self.scores = {name: torch.zeros_like(each.detach()) for name, each in self.kernels.items()}

    def saliencies(self) -> Mapping[str, Tensor]:
        return self.scores

    def learn(self, name: str, whole: Tensor, gradient: Tensor) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self.scores[name].sub_(rate * gradient * whole)
        gradient.mul_(self.masks[name])

    def renew(self, step: int) -> None:
        self.masks = self.best(cubic(step + 1, self.last))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"{name}/score": each for name, each in self.scores.items()}


class Movement(Scheduled):
    """Movement pruning: weights stay that training moves away from zero.

    Sanh, Wolf and Rush, "Movement pruning: adaptive sparsity by fine-tuning", NeurIPS 2020,
    section 4: the network computes with m ⊙ w, the mask m keeps the highest scores s,
    and through the straight-through estimator all scores, also those of weights that left,
    change by -η ∂L/∂w w; w is only changed where it is there. The share that has left grows as
    1 - (1 - t / T)³.

    Departures: scores take the learning rate of the weights, without momentum; the cubic
    schedule starts at the first step, and every kernel has a share of its own.

    Args:
        every: steps from one choice to the next.
        until: the share of the steps after which weights stay.
        options: those of `finetune`.
    """

    chooser: ClassVar[type[Timed]] = _Movement
