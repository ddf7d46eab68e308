"""Cross-entropy."""

from __future__ import annotations

import math
from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.trial import Measurement


class Loss(Objective):
    """Mean cross-entropy in nats; ranks candidates better than error on few images."""

    name: ClassVar[str] = "loss"
    unit: ClassVar[str] = "nats"
    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def measure(self, subject: Subject) -> Measurement:
        """Return the mean with the 95 % interval of its standard error."""
        from torch.nn.functional import cross_entropy

        assert subject.predictions is not None
        each = cross_entropy(
            subject.predictions.logits, subject.predictions.labels, reduction="none"
        ).double()
        mean = float(each.mean())
        if len(each) < 2:
            return Measurement(mean)
        half = 1.959964 * float(each.std()) / math.sqrt(len(each))
        return Measurement(mean, mean - half, mean + half)

    def reference(self, dense: float, num_classes: int) -> float:
        """Return the loss of a network that knows nothing: ln(classes)."""
        return math.log(num_classes)
