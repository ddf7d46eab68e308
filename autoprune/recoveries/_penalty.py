"""Penalties that make units small before they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._leaving import Leaving
from autoprune.recoveries._units import Units, leaving_units
from autoprune.surgery.removal import Removal

Penalty = Callable[[Units], Tensor]
"""A scalar for the units of one group."""


class Penalised(Leaving):
    """Adds `factor(step) * Σ penalty(units)` over all groups to the loss, until the units left."""

    def __init__(
        self,
        training: Training,
        removal: Removal,
        times: Times,
        *,
        penalty: Penalty,
        factor: Callable[[int], float],
    ) -> None:
        super().__init__(training, removal, times)
        self._units = leaving_units(removal, self.network)
        self._penalty = penalty
        self._factor = factor

    def penalty(self, step: int) -> Tensor | None:
        """Return what is added to the loss of a step."""
        if step >= self.last or not self._units:
            return None
        return self._factor(step) * total(self._units, self._penalty)


def total(units: Sequence[Units], penalty: Penalty) -> Tensor:
    """Return the penalty of all groups."""
    return torch.stack([penalty(each) for each in units]).sum()
