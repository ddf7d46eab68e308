"""Error under attack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.objective import Samples, Stage, Subject
from autoprune.objectives._intervals import share
from autoprune.objectives._share import Share, missed
from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor


class AdversarialError(Share):
    """Top-1 error under a gradient attack, every input value moved by at most `epsilon`.

    One step is FGSM (Goodfellow et al., ICLR 2015); more are PGD (Madry et al., ICLR 2018) from
    a seeded random start. An input counts as wrong as soon as one point of the attack, the
    clean input included, is misclassified. Images stay in [0, 1].

    Args:
        epsilon: largest change of an input value; images have values in [0, 1].
        steps: gradient steps.
        step_size: change of a step; 2.5 * epsilon / steps if not given.
        images: how many inputs of the split are attacked.
    """

    name: ClassVar[str] = "adversarial_error"
    stage: ClassVar[Stage] = Stage.SAMPLES

    def __init__(
        self,
        *,
        epsilon: float = 2 / 255,
        steps: int = 1,
        step_size: float | None = None,
        images: int = 256,
    ) -> None:
        if min(steps, images) < 1:
            raise ValueError(f"steps and images must be at least 1, given {steps} and {images}")
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = 2.5 * epsilon / steps if step_size is None else step_size
        if not (self.epsilon > 0 and self.step_size > 0):
            raise ValueError(
                f"epsilon and step_size must be above 0, given {epsilon} and {step_size}"
            )
        self.images = images

    def measure(self, subject: Subject) -> Measurement:
        """Return the error with its Wilson interval; part `clean`: that of the same inputs.

        The note says on how many inputs the attack had no gradient to follow: networks that
        mask it only look robust.
        """
        import torch

        assert subject.samples is not None
        samples = subject.samples
        rows = [
            self._attacked(samples, inputs, labels, seed)
            for seed, (inputs, labels) in enumerate(samples.batches(self.images))
        ]
        counts = torch.cat(rows, dim=1)
        clean, wrong, blind = counts.sum(dim=1).tolist()
        total = counts.shape[1]
        note = f"no gradient reached {blind} of {total} inputs" if blind else ""
        return replace(share(wrong, total), note=note, parts={"clean": share(clean, total)})

    def reference(self, dense: float, num_classes: int) -> float:
        """Return 1: an attack drives the error beyond that of guessing."""
        return 1.0

    def _attacked(self, samples: Samples, inputs: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return (3, n): wrong when clean, wrong under attack, never given a gradient."""
        import torch

        with torch.no_grad():
            clean = missed(samples.forward(inputs), labels)
        wrong, blind = clean, torch.ones_like(clean)
        point = inputs
        if self.steps > 1:
            generator = torch.Generator(inputs.device).manual_seed(seed)
            start = torch.empty_like(inputs).uniform_(
                -self.epsilon, self.epsilon, generator=generator
            )
            point = self._within(inputs + start, inputs, samples.is_image)
        for _ in range(self.steps):
            logits, direction = _ascent(samples, point, labels)
            wrong = wrong | missed(logits, labels)
            blind = blind & (direction == 0).flatten(1).all(dim=1)
            point = self._within(point + self.step_size * direction, inputs, samples.is_image)
        with torch.no_grad():
            wrong = wrong | missed(samples.forward(point), labels)
        return torch.stack([clean, wrong, blind])

    def _within(self, point: Tensor, inputs: Tensor, is_image: bool) -> Tensor:
        """Return the nearest point of the ball around `inputs`, and of [0, 1] for images."""
        point = point.clamp(inputs - self.epsilon, inputs + self.epsilon)
        return point.clamp(0, 1) if is_image else point


def _ascent(samples: Samples, point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits at `point`, and the sign of the loss's gradient there: -1, 0 or 1.

    A gradient that is not a number points nowhere.
    """
    import torch
    from torch.nn.functional import cross_entropy

    with torch.enable_grad():
        point = point.detach().requires_grad_()
        logits = samples.forward(point)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), point)
    return logits.detach(), gradient.sign()
