"""Error on corrupted images."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from autoprune.contracts.objective import Stage, Subject
from autoprune.errors import InputError, suggestion
from autoprune.objectives._corruptions import KINDS, corrupt
from autoprune.objectives._intervals import mean, share
from autoprune.objectives._share import Share, missed
from autoprune.trial import Measurement


class CorruptionError(Share):
    """Mean top-1 error on images under noise, blur, pixelation, contrast and brightness.

    After Hendrycks & Dietterich (ICLR 2019); the corruptions are made on the device and are the
    same for every network.

    Args:
        kinds: the corruptions to average over.
        severity: 1 (mild) to 5 (heavy).
        images: how many images of the split are corrupted.
    """

    name: ClassVar[str] = "corruption_error"
    stage: ClassVar[Stage] = Stage.SAMPLES

    def __init__(
        self, *, kinds: tuple[str, ...] = KINDS, severity: int = 3, images: int = 500
    ) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r} of corruption; {suggestion(kind, KINDS)}")
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError(f"kinds must name at least one corruption, each once; given {kinds}")
        if not 1 <= severity <= 5:
            raise ValueError(f"severity must be 1 to 5, given {severity}")
        if images < 1:
            raise ValueError(f"images must be at least 1, given {images}")
        self.kinds = kinds
        self.severity = severity
        self.images = images

    def measure(self, subject: Subject) -> Measurement:
        """Return the mean error with the normal interval over images; parts: each kind's error.

        Raises `InputError` for inputs that are not images.
        """
        import torch

        assert subject.samples is not None
        samples = subject.samples
        if not samples.is_image:
            raise InputError(
                "corruption_error corrupts images, and the inputs of this data are none; "
                "adversarial_error measures robustness of other inputs"
            )
        rows = []
        with torch.no_grad():
            for place, (images, labels) in enumerate(samples.batches(self.images)):
                corrupted = (corrupt(images, kind, self.severity, place) for kind in self.kinds)
                errors = [missed(samples.forward(each), labels) for each in corrupted]
                rows.append(torch.stack(errors, dim=1))
        wrong = torch.cat(rows)
        shares = [share(hits, len(wrong)) for hits in wrong.sum(dim=0).tolist()]
        parts = dict(zip(self.kinds, shares, strict=True))
        return replace(mean(wrong.double().mean(dim=1)), parts=parts)
