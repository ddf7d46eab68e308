"""Churn."""

from __future__ import annotations

from typing import ClassVar

from autoprune.contracts.objective import Stage, Subject
from autoprune.objectives._intervals import share
from autoprune.objectives._share import Share
from autoprune.trial import Measurement


class Churn(Share):
    """Share of samples whose predicted class is not the dense network's, right or wrong.

    Source: Milani Fard et al., "Launch and iterate: reducing prediction churn" (NeurIPS 2016).
    """

    name: ClassVar[str] = "churn"
    stage: ClassVar[Stage] = Stage.PREDICTIONS
    compares: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """Return the share with its Wilson interval."""
        assert subject.predictions is not None
        assert subject.dense is not None
        assert subject.dense.predictions is not None
        now = subject.predictions.logits.argmax(dim=1)
        before = subject.dense.predictions.logits.argmax(dim=1)
        return share(int((now != before).sum()), len(now))
