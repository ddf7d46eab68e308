"""ADMM: weights are drawn towards a sparse copy of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Cut, Times
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_positive
from autoprune.recoveries.finetune import Finetune


class Admm(Finetune):
    """Alternating directions: training, projection onto what is sparse, and dual variables.

    Zhang et al., "A systematic DNN weight pruning framework using alternating direction method
    of multipliers", ECCV 2018, section 3: to the loss is added ρ/2 Σ ‖W - Z + U‖²; at every
    choice Z becomes the sparse kernel closest to W + U, and U grows by W - Z. In the end W is
    cut to the sparse kernel closest to it, and what is left trains on.

    Departures: W is trained for so many steps with the rung's recipe between choices, not to
    the end, and without an optimizer of its own.

    Args:
        rho: the factor of the penalty, the paper's ρ.
        every: steps from one projection to the next.
        until: the share of the steps after which weights are cut.
        options: those of `finetune`.
    """

    chooses_weights: ClassVar[bool] = True
    reads_criterion: ClassVar[bool] = False

    def __init__(
        self, *, rho: float = 0.5, every: int = 10, until: float = 0.5, **options: Any
    ) -> None:
        super().__init__(**options)
        require_positive("rho", rho)
        self.rho = rho
        self.times = Times(until, every)

    def masking(self, training: Training) -> Masking:
        """Return what draws weights towards their projection, and cuts."""
        return _Admm(training, self.times, self.rho)


class _Admm(Cut):
    def __init__(self, training: Training, times: Times, rho: float) -> None:
        super().__init__(training, times)
        self.rho = rho
        kernels = {name: each.detach() for name, each in self.kernels.items()}
        self.copies = self._nearest(kernels)
        self.duals = {name: torch.zeros_like(each) for name, each in kernels.items()}

    def _nearest(self, kernels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sparse kernels that are closest to some others."""
        squares = {name: each.square() for name, each in kernels.items()}
        masks = self.sparsity.masks(saliencies=squares) if kernels else {}
        return {name: each * masks[name] for name, each in kernels.items()}

    def saliencies(self) -> Mapping[str, Tensor]:
        # The sum of what leaves of a block is smallest, so that the rest is closest.
        return {name: each.detach().square() for name, each in self.kernels.items()}

    def penalty(self, step: int) -> Tensor | None:
        if step >= self.last or not self.kernels:
            return None
        gaps = [
            (each - self.copies[name] + self.duals[name]).square().sum()
            for name, each in self.kernels.items()
        ]
        return 0.5 * self.rho * torch.stack(gaps).sum()

    def after(self, step: int) -> None:
        super().after(step)
        if self.is_due(step) and step + 1 < self.last:
            kernels = {name: each.detach() for name, each in self.kernels.items()}
            sums = {name: each + self.duals[name] for name, each in kernels.items()}
            for name, each in self._nearest(sums).items():
                self.copies[name].copy_(each)
                self.duals[name].copy_(sums[name] - each)

    def tensors(self) -> dict[str, Tensor]:
        more = {f"{name}/copy": each for name, each in self.copies.items()}
        more |= {f"{name}/dual": each for name, each in self.duals.items()}
        return super().tensors() | more
