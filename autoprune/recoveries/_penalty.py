"""Penalties that make units small before they leave."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.contracts.recovery import Training
from autoprune.recoveries._chosen import Times
from autoprune.recoveries._leaving import Leaving, UnitRecovery
from autoprune.recoveries._options import require_positive
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


class PenalisedUnits(UnitRecovery):
    """Adds `strength` times a penalty on the units that leave to the loss."""

    def __init__(self, *, strength: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        require_positive("strength", strength)
        self.strength = strength

    def leaving(self, training: Training, removal: Removal) -> Leaving:
        """Return what penalises the units, and makes them zero."""
        return Penalised(
            training, removal, self.times, penalty=self.penalty, factor=lambda _: self.strength
        )

    @abstractmethod
    def penalty(self, units: Units) -> Tensor:
        """Return the penalty on the units of one group, a scalar."""


def total(units: Sequence[Units], penalty: Penalty) -> Tensor:
    """Return the penalty of all groups."""
    return torch.stack([penalty(each) for each in units]).sum()
