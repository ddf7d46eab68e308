"""What objectives that are a share of samples have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from autoprune.contracts.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor


class Share(Objective):
    """A share of samples; the worst of interest is the error of guessing."""

    unit: ClassVar[str] = "share"

    def reference(self, dense: float, num_classes: int) -> float:
        """Return chance: the error of a network that guesses one class."""
        return 1.0 - 1.0 / num_classes


def missed(logits: Tensor, labels: Tensor) -> Tensor:
    """Say of every sample whether its class is not found, (n,); never in what is not finite."""
    return (logits.argmax(dim=1) != labels) | ~logits.isfinite().all(dim=1)
