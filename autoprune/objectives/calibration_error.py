"""Calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from autoprune.contracts.objective import Stage, Subject
from autoprune.objectives._intervals import mean
from autoprune.objectives._share import Share
from autoprune.objectives.brier import Brier
from autoprune.objectives.loss import Loss
from autoprune.trial import Measurement


class CalibrationError(Share):
    """Expected calibration error: how far confidence in the top-1 class is from accuracy.

    Mean over samples of |accuracy - mean confidence| of their bin, in bins of equal width in
    confidence (Guo et al., "On calibration of modern neural networks", ICML 2017).

    Args:
        bins: bins between confidence 0 and 1.
    """

    name: ClassVar[str] = "calibration_error"
    stage: ClassVar[Stage] = Stage.PREDICTIONS

    def __init__(self, *, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, given {bins}")
        self.bins = bins

    def measure(self, subject: Subject) -> Measurement:
        """Return the error with its interval; parts: brier, nll and the mean confidence.

        The interval is by the delta method. With s the sign of a bin's summed residuals
        (1 if right, else 0) - confidence, the error is the mean of s * residual over samples;
        its standard error is that of this mean, the signs taken as known. The interval is too
        narrow, and the value too high, where most bins are calibrated within their noise.
        """
        import torch

        assert subject.predictions is not None
        logits, labels = subject.predictions.logits, subject.predictions.labels
        confidence, predicted = logits.softmax(dim=1).double().max(dim=1)
        residuals = (predicted == labels).double() - confidence
        # A bin holds its upper edge: (m / bins, (m + 1) / bins].
        places = (confidence * self.bins).ceil().long() - 1
        sums = torch.zeros(self.bins, dtype=residuals.dtype, device=residuals.device)
        signs = sums.index_add(0, places, residuals).sign()
        parts = {
            "brier": Brier().measure(subject),
            "nll": Loss().measure(subject),
            "confidence": mean(confidence),
        }
        return replace(mean(signs[places] * residuals), parts=parts)
