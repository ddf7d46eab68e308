"""How one tensor is rounded to whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.quantization.form import INPUT_STEP, INPUT_ZERO, decision_of

_MOST = 255


@dataclass(frozen=True, slots=True)
class Pair:
    """x = step · (q - zero), 0 ≤ q < 2^bits, with at most 8 bits."""

    step: float
    zero: int
    bits: int = 8

    @classmethod
    def of(cls, layer: nn.Module) -> Pair | None:
        """Return how a quantised layer rounds what it reads; None: not to whole numbers."""
        step, zero = getattr(layer, INPUT_STEP, None), getattr(layer, INPUT_ZERO, None)
        if step is None or zero is None:
            return None
        return cls(float(step), int(zero), decision_of(layer).activation_bits)

    @classmethod
    def over(cls, low: float, high: float) -> Pair:
        """Return the pair with 8 bits that covers a range, and 0 exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / _MOST or 1.0
        return cls(step, round(-low / step))

    def refined(self, low: float, high: float) -> Pair:
        """Return the pair with 8 bits over a range whose grid holds this one's.

        Its step is an odd part of this one's, so that rounding by both is rounding by this one.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        parts = max(1, int(_MOST * self.step / max(high - low, self.step)))
        step = self.step / (parts if parts % 2 else parts - 1)
        return Pair(step, min(_MOST, round(-low / step)))
