"""Multiply-accumulates."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class Macs(Objective):
    """Multiply-accumulates of one sample, in convolutions and linear layers, zeros included."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "MACs"
    stage: ClassVar[Stage] = Stage.COSTS

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count from the cost table."""
        return Measurement(float(subject.costs.macs))
