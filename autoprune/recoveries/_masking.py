"""Which single weights are there while a network trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.surgery.sparsify import settle


class Masking:
    """Keeps what left at zero: the masks that were chosen before, from the first step to the last.

    Derived classes choose while they train. All that they go by is in `tensors()`, in the network
    and its optimizer, and in the step, so that training can go on from a checkpoint. `optimizer`
    is there from the first step on.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, training: Training) -> None:
        self.training = training
        self.network = training.network
        self.masks: dict[str, Tensor] = {}
        if training.sparsity is not None:
            self.masks = self.first()

    def first(self) -> dict[str, Tensor]:
        """Return the masks before the first step, bool in the kernels' shapes."""
        assert self.training.sparsity is not None
        return {name: each.clone() for name, each in self.training.sparsity.chosen.items()}

    def before(self, step: int) -> None:
        """Prepare the forward pass of a step."""

    def passing(self, step: int) -> AbstractContextManager[object]:
        """Return what is open during the forward pass of a step."""
        return nullcontext()

    def penalty(self, step: int) -> Tensor | None:
        """Return a scalar that is added to the loss of a step; None adds nothing."""
        return None

    def see(self, step: int) -> None:
        """Look at the gradients of a step, before the weights change."""

    def after(self, step: int) -> None:
        """Put the network in order after its weights have changed."""
        settle(self.network, self.masks)

    def end(self) -> None:
        """Leave the network without what leaves."""
        settle(self.network, self.masks)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be kept in a checkpoint, by names of its own, not copied."""
        return dict(self.masks)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        own = self.tensors()
        for name, each in tensors.items():
            own[name].copy_(each)
