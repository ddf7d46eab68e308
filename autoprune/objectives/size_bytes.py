"""Stored size."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class SizeBytes(Objective):
    """Bytes of the stored weights and buffers."""

    name: ClassVar[str] = "size_bytes"
    unit: ClassVar[str] = "bytes"
    stage: ClassVar[Stage] = Stage.COSTS

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count from the cost table."""
        return Measurement(float(subject.costs.size_bytes))
