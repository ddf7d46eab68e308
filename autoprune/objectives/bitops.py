"""Bit operations."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class Bitops(Objective):
    """Bit operations of one sample: multiply-accumulates, weighted by the bits of both sides."""

    name: ClassVar[str] = "bitops"
    unit: ClassVar[str] = "bit operations"
    stage: ClassVar[Stage] = Stage.COSTS

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count from the cost table."""
        return Measurement(float(subject.costs.bitops))
