"""Cross-entropy."""

from __future__ import annotations

import math
from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.objectives._intervals import mean
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
        logits, labels = subject.predictions.logits, subject.predictions.labels
        return mean(cross_entropy(logits, labels, reduction="none").double())

    def reference(self, dense: float, num_classes: int) -> float:
        """Return the loss of a network that knows nothing: ln(classes)."""
        return math.log(num_classes)
