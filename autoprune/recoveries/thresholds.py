"""Learned thresholds: how small a weight must be to count for nothing is trained as well."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_positive
from autoprune.recoveries._whole import Whole
from autoprune.recoveries.finetune import Finetune


class Thresholds(Finetune):
    """Soft thresholds of kernels that are learned, then a cut, then training of the rest.

    Kusupati et al., "Soft threshold weight reparameterization for learnable sparsity" (STR),
    ICML 2020, section 3: the network computes with sign(w) ReLU(|w| - g(s)), g a
    sigmoid, one s per kernel. Gradients of the loss change w where it is not cut off, and s,
    whose weight decay raises the threshold.

    Departures: g(s) is the share σ(s) of the kernel's largest magnitude at the start, since
    kernels differ in scale. What raises s is the same in every step, and rests in kernels that
    have no more weights above the threshold than the policy wants: the paper's sparsity is
    whatever comes out. In the end all kernels are cut to exactly what is wanted, by magnitude,
    and what stays is thresholded one last time. Thresholds are those of single weights also
    where patterns are wanted; these come in with the cut.

    Args:
        start: s before the first step; -5 is a threshold of 0.7 % of the largest weight.
        decay: the share of `start` by which s rises in a step, times the learning rate.
        until: the share of the steps after which weights are cut.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True
    reads_criterion: ClassVar[bool] = False

    def __init__(
        self, *, start: float = -5.0, decay: float = 1.0, until: float = 0.5, **options: Any
    ) -> None:
        super().__init__(**options)
        if not start < 0:
            raise ValueError(f"start must be below zero, towards which it rises, given {start}")
        require_positive("decay", decay)
        self.start = start
        self.decay = decay
        self.times = Times(until)

    def masking(self, training: Training) -> Masking:
        """Return what learns thresholds, and cuts."""
        return _Thresholds(training, self.times, self.start, self.decay)


class _Thresholds(Whole):
    def __init__(self, training: Training, times: Times, start: float, decay: float) -> None:
        super().__init__(training, times)
        self.push = -decay * start
        self.learned: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}
        self.wanted: dict[str, int] = {}
        for name, kernel in self.kernels.items():
            self.scales[name] = kernel.detach().abs().max()
            self.learned[name] = torch.full_like(self.scales[name], start)
        if self.kernels:
            self.wanted = {name: int(each.sum()) for name, each in self.sparsity.masks().items()}

    def threshold(self, name: str) -> Tensor:
        """Return what magnitudes of a kernel must exceed, a scalar."""
        return self.scales[name] * torch.sigmoid(self.learned[name])

    def shown(self, name: str, kernel: Tensor) -> Tensor:
        return kernel.sign() * (kernel.abs() - self.threshold(name)).relu()

    def learn(self, name: str, whole: Tensor, gradient: Tensor) -> None:
        is_there = whole.abs() > self.threshold(name)
        gradient.mul_(is_there)
        learned = self.learned[name]
        share = torch.sigmoid(learned)
        slope = -(gradient * whole.sign()).sum() * self.scales[name] * share * (1.0 - share)
        is_many = (is_there.sum() > self.wanted[name]).to(slope.dtype)
        rate = self.optimizer.param_groups[0]["lr"]
        learned.sub_(rate * (slope - is_many * self.push))

    def renew(self, step: int) -> None:
        self.cut()

    @torch.no_grad()
    def cut(self) -> None:
        masks = self.best()
        for name, kernel in self.kernels.items():
            kernel.copy_(self.shown(name, kernel))
        self.take(masks)

    def tensors(self) -> dict[str, Tensor]:
        more = {f"{name}/threshold": each for name, each in self.learned.items()}
        more |= {f"{name}/scale": each for name, each in self.scales.items()}
        return super().tensors() | more
