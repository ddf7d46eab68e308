"""Observers: the range of values, told as they stream by in batches.

    observer = OBSERVERS["percentile"]()
    for values in batches: observer.observe(values)
    low, high = observer.range(bits=8)

A range always contains zero, so that zero (padding, and what a ReLU cuts off) is exact.
Percentile and mse keep a histogram of all values that grows by doubling: bins are only ever
merged in pairs, so no count is moved, however wide the values become. A sample of the values
would be less to count, but of the one in ten thousand that the percentile is about it would
hold a few dozen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from autoprune.errors import NonFiniteError
from autoprune.job.spec import Observer

_BINS = 4096
# Counts of one call are float32, which counts no further.
_COUNTED = 2**24
# Shares of the widest range that the search for the least error tries.
_SHARES = torch.linspace(0.01, 1.0, 100, dtype=torch.float64)


class RangeObserver(ABC):
    """Sees values batch by batch and tells the range that stands for them."""

    def observe(self, values: Tensor) -> None:
        """Take one batch of values, of any shape; raises `NonFiniteError` on NaN or infinity."""
        low, high = (float(each) for each in torch.aminmax(values.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NonFiniteError("NaN or infinity")
        self._take(values.detach(), min(low, 0.0), max(high, 0.0))

    @abstractmethod
    def _take(self, values: Tensor, low: float, high: float) -> None:
        """Take a batch that lies, with zero, between `low` and `high`."""

    @abstractmethod
    def range(self, bits: int) -> tuple[float, float]:
        """Return the least and the greatest value that `bits` bits need to tell: low ≤ 0 ≤ high.

        Values beyond are clipped.
        """


class MinMax(RangeObserver):
    """All that was ever seen."""

    def __init__(self) -> None:
        self._low = self._high = 0.0

    def _take(self, values: Tensor, low: float, high: float) -> None:
        self._low, self._high = min(self._low, low), max(self._high, high)

    def range(self, bits: int) -> tuple[float, float]:
        """Return the least and the greatest value seen."""
        return self._low, self._high


class MovingAverage(RangeObserver):
    """The least and the greatest value of a batch, averaged: nine parts old, one part new."""

    def __init__(self) -> None:
        self._ends: tuple[float, float] | None = None

    def _take(self, values: Tensor, low: float, high: float) -> None:
        old = self._ends or (low, high)
        self._ends = 0.9 * old[0] + 0.1 * low, 0.9 * old[1] + 0.1 * high

    def range(self, bits: int) -> tuple[float, float]:
        """Return both averages."""
        return self._ends or (0.0, 0.0)


class _Histogram(RangeObserver):
    """Counts values in equal bins between `_start` and `_start + _width`, which holds zero."""

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self._start = self._width = 0.0
        self._counts = torch.zeros(_BINS, dtype=torch.float64)

    def _take(self, values: Tensor, low: float, high: float) -> None:
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._width == 0.0:
            # Constant zeros have no width yet; it doubles from there as from anywhere.
            self._start, self._width = self._low, max(self._high - self._low, 1e-30)
        while self._start > self._low:
            self._widen(downwards=True)
        while self._start + self._width < self._high:
            self._widen(downwards=False)
        for part in values.float().flatten().split(_COUNTED):
            found = torch.histc(part, _BINS, self._start, self._start + self._width)
            self._counts += found.to(self._counts)

    def _widen(self, *, downwards: bool) -> None:
        """Double the width, upwards or downwards; two bins become one."""
        merged, none = self._counts.view(-1, 2).sum(1), torch.zeros(_BINS // 2).double()
        self._counts = torch.cat([none, merged] if downwards else [merged, none])
        self._start -= self._width if downwards else 0.0
        self._width *= 2

    @property
    def _bin(self) -> float:
        return self._width / _BINS


class Percentile(_Histogram):
    """The values between which all but a share of the lowest and as many of the highest lie."""

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        self._percent = percent

    def range(self, bits: int) -> tuple[float, float]:
        """Return both percentiles, interpolated within their bins."""
        share = self._percent / 100
        return max(min(self._quantile(1 - share), 0.0), self._low), min(
            max(self._quantile(share), 0.0), self._high
        )

    def _quantile(self, share: float) -> float:
        """Return the value below which this share of all values lies."""
        sums = self._counts.cumsum(0)
        wanted = share * float(sums[-1])
        index = min(int(torch.searchsorted(sums, wanted)), _BINS - 1)
        count = float(self._counts[index])
        within = 1.0 - (float(sums[index]) - wanted) / count if count else 0.0
        return self._start + (index + within) * self._bin


class MeanSquare(_Histogram):
    """The range whose rounding errs least in the mean square."""

    def range(self, bits: int) -> tuple[float, float]:
        """Return the best range whose ends are shares, in hundredths, of the widest one's."""
        seen = self._counts > 0
        centres = self._start + (torch.arange(_BINS) + 0.5).double() * self._bin
        values, counts = centres[seen], self._counts[seen]
        widest = torch.tensor([self._low, self._high], dtype=torch.float64)
        # With few bits the ends depend on each other, as zero is one of the values: a coarse
        # search of both at once, then a fine one of each.
        lows, highs = torch.cartesian_prod(_SHARES[4::5], _SHARES[4::5]).T * widest[:, None]
        best = _errors(values, counts, lows, highs, bits).argmin()
        low, high = lows[best], highs[best]
        highs = widest[1] * _SHARES
        high = highs[_errors(values, counts, low, highs, bits).argmin()]
        lows = widest[0] * _SHARES
        low = lows[_errors(values, counts, lows, high, bits).argmin()]
        return float(low), float(high)


def _errors(values: Tensor, counts: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Return the sum of squared errors for each of the ranges."""
    step, zero = (each[:, None] for each in affine(low, high, bits))
    whole = (values / step).round_().clamp_(-zero, 2**bits - 1 - zero)
    return whole.mul_(step).sub_(values).square_() @ counts


def affine(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the step and the zero point, a whole number, of ranges low ≤ 0 ≤ high.

    Of a range without width the step is one.
    """
    levels = 2**bits - 1
    step = (high - low) / levels
    step = torch.where(step > torch.finfo(torch.float32).tiny, step, 1.0)
    return step, (-low / step).round().clamp(0, levels)


OBSERVERS: dict[Observer, type[RangeObserver]] = {
    "min_max": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": MeanSquare,
}
