"""Brier score."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Objective, Stage, Subject
from autoprune.objectives._intervals import mean
from autoprune.trial import Measurement


class Brier(Objective):
    """Mean squared distance of the predicted probabilities from the true class, 0 to 2.

    Summed over classes, as Brier (Monthly Weather Review 78, 1950) defines it.
    """

    name: ClassVar[str] = "brier"
    unit: ClassVar[str] = "squared distance"
    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def measure(self, subject: Subject) -> Measurement:
        """Return the mean with the 95 % interval of its standard error."""
        import torch

        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        apart = logits.softmax(dim=1)
        apart[torch.arange(len(labels), device=labels.device), labels] -= 1
        return mean(apart.square().sum(dim=1).double())

    def reference(self, dense: float, num_classes: int) -> float:
        """Return the score of a network that knows nothing: every class as probable."""
        return 1.0 - 1.0 / num_classes
