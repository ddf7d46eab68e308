"""Top-1 error."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Stage, Subject
from autoprune.objectives._intervals import share
from autoprune.objectives._share import Share
from autoprune.trial import Measurement


class Error(Share):
    """Share of samples whose top-1 class is wrong, with a 95 % interval."""

    name: ClassVar[str] = "error"
    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def measure(self, subject: Subject) -> Measurement:
        """Return the error with its Wilson interval."""
        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        return share(int((logits.argmax(dim=1) != labels).sum()), len(labels))
