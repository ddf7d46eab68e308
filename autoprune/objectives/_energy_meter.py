"""Energy of work by a counter: readings where the counter moves, idle power subtracted."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.errors import InputError
from autoprune.objectives._energy_counters import Counter

WINDOWS = 5
# Student's t, two-sided 95 %, for the mean of as many windows.
_T = 2.776
# The counter of a GPU may move only every tenth of a second.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The counter right after it moved: passes done, seconds and joules since some start."""

    passes: int
    seconds: float
    joules: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A mean, and half of its 95 % interval."""

    mean: float
    half: float


@dataclass(frozen=True, slots=True)
class Metered:
    """Joules of one pass beyond those of idling, joules of one pass, and watts of idling."""

    net: Rate
    gross: float
    idle: Rate


def metered(counter: Counter, work: Callable[[], int], seconds: float) -> Metered:
    """Idle and then work for `seconds` each; `work` returns how many passes it has done.

    Both go on for up to ten times as long where the counter moves too seldom to tell how
    sure the mean is. Raises `InputError` if it hardly moves even then.
    """
    idle = _power(_readings(counter, _idle, seconds))
    readings = _readings(counter, work, seconds)
    first, last = readings[0], readings[-1]
    passes = last.passes - first.passes
    gross = (last.joules - first.joules) / passes
    pass_s = (last.seconds - first.seconds) / passes
    each = [
        ((end.joules - start.joules) - idle.mean * (end.seconds - start.seconds))
        / (end.passes - start.passes)
        for start, end in _windows(readings)
    ]
    half = math.hypot(_half(each), pass_s * idle.half)
    return Metered(Rate(gross - pass_s * idle.mean, half), gross, idle)


def _idle() -> int:
    time.sleep(0.005)
    return 0


def _readings(counter: Counter, work: Callable[[], int], seconds: float) -> list[Reading]:
    """Return a reading for every move of the counter; at least two per window."""
    readings: list[Reading] = []
    passes, last, start = 0, counter.joules(), time.perf_counter()
    while True:
        passes += work()
        now, joules = time.perf_counter() - start, counter.joules()
        if joules != last:
            readings.append(Reading(passes, now, joules))
            last = joules
        if now >= seconds and len(readings) > WINDOWS:
            return readings
        if now >= _PATIENCE * seconds:
            raise InputError(
                f"{counter.title} moved {len(readings)} times in {now:.1f} s, too seldom to "
                "measure by; give more seconds, or estimate with source: model"
            )


def _power(readings: Sequence[Reading]) -> Rate:
    each = [
        (end.joules - start.joules) / (end.seconds - start.seconds)
        for start, end in _windows(readings)
    ]
    first, last = readings[0], readings[-1]
    mean = (last.joules - first.joules) / (last.seconds - first.seconds)
    return Rate(mean, _half(each))


def _windows(readings: Sequence[Reading]) -> list[tuple[Reading, Reading]]:
    """Cut readings into windows of about as many readings each."""
    places = np.linspace(0, len(readings) - 1, WINDOWS + 1).round().astype(int)
    return [(readings[a], readings[b]) for a, b in itertools.pairwise(places)]


def _half(values: Sequence[float]) -> float:
    return float(_T * np.std(values, ddof=1) / math.sqrt(len(values)))
