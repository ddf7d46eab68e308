"""Parameters."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class Params(Objective):
    """Number of parameters that are kept; weights that left do not count."""

    name: ClassVar[str] = "params"
    unit: ClassVar[str] = "parameters"
    stage: ClassVar[Stage] = Stage.COSTS

    def measure(self, subject: Subject) -> Measurement:
        """Return the exact count from the cost table."""
        return Measurement(float(subject.costs.params))
