"""Weights that stay in training although the network computes without them."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Timed, Times
from autoprune.surgery.sparsify import settle


class Whole(Timed):
    """Until the last choice the network computes with less than what is trained.

    Between steps it holds the whole weights; for the passes through it they make room for what
    is `shown`. After the last choice what left is zero for good.
    """

    def __init__(self, training: Training, times: Times) -> None:
        super().__init__(training, times)
        self._whole: dict[str, Tensor] = {}

    def shown(self, name: str, kernel: Tensor) -> Tensor:
        """Return what the network computes with in place of a whole kernel."""
        return kernel * self.masks[name]

    def learn(self, name: str, whole: Tensor, gradient: Tensor) -> None:
        """Look at a kernel's gradient, taken at what was shown; it may be changed in place."""

    def renew(self, step: int) -> None:
        """Choose anew which weights stay, once a step was taken and it is time."""

    @torch.no_grad()
    def before(self, step: int) -> None:
        """Show the network less than what is trained."""
        if step >= self.last:
            return
        self._whole = {name: each.detach().clone() for name, each in self.kernels.items()}
        for name, kernel in self.kernels.items():
            kernel.copy_(self.shown(name, self._whole[name]))

    @torch.no_grad()
    def see(self, step: int) -> None:
        """Give the whole weights back, to be changed by gradients of what was shown."""
        if step >= self.last:
            super().see(step)
            return
        for name, kernel in self.kernels.items():
            if kernel.grad is not None:
                self.learn(name, self._whole[name], kernel.grad)
            kernel.copy_(self._whole[name])

    def after(self, step: int) -> None:
        """Choose when it is time; in the end for good."""
        if self.is_due(step):
            self.renew(step)
        if step + 1 == self.last:
            self.take(self.masks)
        elif step >= self.last:
            settle(self.network, self.masks)
