"""Intervals at 95 %: of a share, of the difference of two shares, of a mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autoprune.trial import Measurement

if TYPE_CHECKING:
    from torch import Tensor

_Z = 1.959964  # two-sided 95 %


def share(hits: int, total: int) -> Measurement:
    """Return `hits / total` with its score interval (Wilson, JASA 1927); `total` > 0."""
    value = hits / total
    spread = _Z * math.sqrt(value * (1 - value) / total + _Z**2 / (4 * total**2))
    scale = 1 + _Z**2 / total
    centre = value + _Z**2 / (2 * total)
    # At 0 and at 1 the bound is the value itself, but for rounding.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Measurement(value, max(0.0, min(value, low)), min(1.0, max(value, high)))


def difference(first: Measurement, second: Measurement) -> Measurement:
    """Return `first - second` of two independent shares, each with its interval of `share`.

    Method 10 of Newcombe, "Interval estimation for the difference between independent
    proportions" (Statistics in Medicine 17, 1998).
    """
    assert first.low is not None
    assert first.high is not None
    assert second.low is not None
    assert second.high is not None
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Measurement(value, value - below, value + above)


def normal(value: float, variance: float) -> Measurement:
    """Return an estimate with its normal interval; without one where the variance is NaN."""
    if math.isnan(variance):
        return Measurement(value)
    half = _Z * math.sqrt(variance)
    return Measurement(value, value - half, value + half)


def mean(values: Tensor) -> Measurement:
    """Return the mean of `values` (n,), float64; one value has no interval."""
    count = len(values)
    variance = float(values.var()) / count if count > 1 else math.nan
    return normal(float(values.mean()), variance)
