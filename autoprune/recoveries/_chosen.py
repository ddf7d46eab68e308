"""Single weights that leave while the network trains: what all ways to choose them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.contracts.recovery import Training
from autoprune.recoveries._masking import Masking
from autoprune.recoveries._options import require_share
from autoprune.surgery.sparsify import Sparsity, settle


@dataclass(frozen=True)
class Times:
    """When weights are chosen: after every so many steps, until a share of them was taken.

    What is chosen the last time stays. Without `every` there is that one time only.
    """

    until: float
    every: int | None = None

    def __post_init__(self) -> None:
        require_share("until", self.until)
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be at least 1 step, given {self.every}")

    def last(self, steps: int) -> int:
        """Return after how many of the steps weights are chosen for the last time."""
        return max(1, round(self.until * steps))

    def is_due(self, taken: int, steps: int) -> bool:
        """Say whether weights are chosen after so many steps were taken."""
        last = self.last(steps)
        return taken == last or (
            self.every is not None and taken < last and taken % self.every == 0
        )


def cubic(taken: int, last: int) -> float:
    """Return the share that has left after so many steps, all of it after `last` of them.

    1 - (1 - t / T)³ (Zhu and Gupta, 2017, equation 1, from no sparsity on).
    """
    return float(1.0 - (1.0 - min(1.0, taken / last)) ** 3)


def stored_kernels(network: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters that kernels are stored in: of those made from others, those."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    found = {}
    for name in names:
        layer, dot, kernel = name.rpartition(".")
        made = f"{layer}{dot}parametrizations.{kernel}.original"
        found[name] = parameters[made if made in parameters else name]
    return found


class Chosen(Masking):
    """Starts with the whole network; what left is zero, gets no gradient and has no momentum.

    `kernels` are the parameters that lose weights, by the names of the decisions about them;
    there are none where nothing leaves.
    """

    def __init__(self, training: Training) -> None:
        names = training.sparsity.decisions if training.sparsity is not None else ()
        self.kernels = stored_kernels(training.network, names)
        super().__init__(training)
        settle(self.network, self.masks)

    def first(self) -> dict[str, Tensor]:
        """Return masks that keep everything."""
        return self.sparsity.masks(0.0)

    @property
    def sparsity(self) -> Sparsity:
        """What leaves; only where something does."""
        assert self.training.sparsity is not None
        return self.training.sparsity

    def saliencies(self) -> Mapping[str, Tensor]:
        """Return what weights are worth now: their magnitudes."""
        return {name: each.detach().abs() for name, each in self.kernels.items()}

    def best(self, share: float = 1.0) -> dict[str, Tensor]:
        """Return what stays when `share` of all that leaves has left, by what is worth most."""
        return self.sparsity.masks(share, self.saliencies()) if self.kernels else {}

    @torch.no_grad()
    def take(self, masks: dict[str, Tensor]) -> None:
        """Keep these weights from now on."""
        self.masks = masks
        settle(self.network, masks)
        for name, kernel in self.kernels.items():
            for each in self.optimizer.state.get(kernel, {}).values():
                if isinstance(each, Tensor) and each.shape == kernel.shape:
                    each.mul_(masks[name])

    @torch.no_grad()
    def see(self, step: int) -> None:
        """Let no gradient reach what left."""
        for name, kernel in self.kernels.items():
            if kernel.grad is not None:
                kernel.grad.mul_(self.masks[name])

    def cut(self) -> None:
        """Choose for good."""
        self.take(self.best())

    def end(self) -> None:
        """Leave as many weights as are wanted, also where training stopped before its time."""
        # Counts do not tell: blocks at the edges of a kernel are smaller.
        there = {name: each.float() for name, each in self.masks.items()}
        wanted = self.sparsity.masks(saliencies=there) if there else {}
        if any(not torch.equal(each, self.masks[name]) for name, each in wanted.items()):
            self.cut()
        super().end()


class Timed(Chosen):
    """Chooses at some times; after the first `last` steps for good."""

    def __init__(self, training: Training, times: Times) -> None:
        self.times = times
        self.last = times.last(training.steps)
        super().__init__(training)

    def is_due(self, step: int) -> bool:
        """Say whether weights are chosen once a step was taken."""
        return self.times.is_due(step + 1, self.training.steps)


class Cut(Timed):
    """Lets what has to leave go all at once, by magnitude, after the first `last` steps."""

    def after(self, step: int) -> None:
        """Cut when it is time."""
        super().after(step)
        if step + 1 == self.last:
            self.cut()
