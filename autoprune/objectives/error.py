"""Top-1 error."""

from __future__ import annotations

import math
from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement

_Z = 1.959964  # two-sided 95 %


class Error(Objective):
    """Share of samples whose top-1 class is wrong, with a 95 % interval."""

    name: ClassVar[str] = "error"
    unit: ClassVar[str] = "share"
    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def measure(self, subject: Subject) -> Measurement:
        """Return the error with its Wilson score interval (Wilson, JASA 1927)."""
        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        count = len(labels)
        error = 1.0 - int((logits.argmax(dim=1) == labels).sum()) / count
        spread = _Z * math.sqrt(error * (1 - error) / count + _Z**2 / (4 * count**2))
        scale = 1 + _Z**2 / count
        centre = error + _Z**2 / (2 * count)
        return Measurement(error, max(0.0, (centre - spread) / scale), (centre + spread) / scale)

    def reference(self, dense: float, num_classes: int) -> float:
        """Return chance: a network that guesses one class."""
        return 1.0 - 1.0 / num_classes
