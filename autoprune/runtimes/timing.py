"""Timing by comparison: two runners in turn, so that what drifts on a machine cancels.

A machine slows down and speeds up by tens of per cent within seconds. Two passes next to each
other meet the same machine, so their ratio is steady where milliseconds are not: blocks of
passes run in the order candidate, reference, reference, candidate, which cancels a drift that
is linear, and the median over many such rounds drops those that something interrupted.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from autoprune.runtimes.runtime import Runner
from autoprune.trial import Measurement

Clock = Callable[[], float]

_BLOCK_S = 2e-4  # a timing is at least this long, so that the clock does not matter
_WINDOW = 5  # passes whose median tells whether a runner is warm
# Of six samples, the least and the greatest enclose the median with 97 %.
_FEWEST_ROUNDS = 6
_FIRST_LOOK = 12
_GROWTH = 1.25  # of the rounds between two looks at the interval
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside a reference: the ratio of their times, and milliseconds per pass.

    `note` says so where the wanted precision was not reached.
    """

    ratio: Measurement
    candidate_ms: Measurement
    reference_ms: Measurement
    note: str


def compare(
    candidate: Runner,
    reference: Runner,
    *,
    precision: float,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time two open runners in turn until the ratio is known to `precision`.

    That is the full width of its 95 % interval as a share of its value. Stops after `seconds`
    of timing (and six rounds), then with a note; warming up takes as long again at most.
    """
    passes = [_warm(each, seconds / 2, clock) for each in (candidate, reference)]
    times: list[tuple[float, float]] = []

    def one_round() -> float:
        order = (0, 1, 1, 0)
        laps = [_block((candidate, reference)[x], passes[x], clock) for x in order]
        times.append((laps[0] + laps[3], laps[1] + laps[2]))
        return times[-1][0] / times[-1][1]

    with _no_collection():
        ratio, note = _until_precise(one_round, precision, seconds, clock)
    own, other = 1e3 * np.array(times).T / 2
    return Comparison(ratio, _median(own), _median(other), note)


def alone(
    runner: Runner, *, precision: float, seconds: float, clock: Clock = time.perf_counter
) -> Measurement:
    """Return the median milliseconds of a pass, by the rules of `compare`."""
    passes = _warm(runner, seconds, clock)
    with _no_collection():
        found, note = _until_precise(
            lambda: 1e3 * _block(runner, passes, clock), precision, seconds, clock
        )
    return Measurement(found.value, found.low, found.high, note)


def _until_precise(
    sample: Callable[[], float], precision: float, seconds: float, clock: Clock
) -> tuple[Measurement, str]:
    """Draw samples until their median is known well enough, or time is up."""
    start, samples, look = clock(), list[float](), _FIRST_LOOK
    while True:
        samples.append(sample())
        spent = clock() - start
        if len(samples) < (look if spent < seconds else _FEWEST_ROUNDS):
            continue
        found = _median(np.array(samples))
        assert found.low is not None
        assert found.high is not None
        width = (found.high - found.low) / found.value
        if width <= precision:
            return found, ""
        if spent >= seconds:
            return found, (
                f"interval {width:.1%} wide after {spent:.1f} s: the machine is too noisy for "
                f"{precision:.1%}"
            )
        look = int(_GROWTH * len(samples)) + 1


def _median(samples: np.ndarray) -> Measurement:
    """Return the median with its 95 % percentile bootstrap interval, seeded.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    rng = np.random.default_rng(0)
    draws = samples[rng.integers(len(samples), size=(_RESAMPLES, len(samples)))]
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    middle = float(np.median(samples))
    return Measurement(middle, min(middle, float(low)), max(middle, float(high)))


def _warm(runner: Runner, seconds: float, clock: Clock) -> int:
    """Run until passes get no faster, or time is up; return how many make up a block."""
    start, laps = clock(), [_block(runner, 1, clock)]
    while clock() - start < seconds and (len(laps) < 2 * _WINDOW or _is_falling(laps)):
        laps.append(_block(runner, 1, clock))
    return max(1, math.ceil(_BLOCK_S / statistics.median(laps[-_WINDOW:])))


def _is_falling(laps: list[float]) -> bool:
    now, before = laps[-_WINDOW:], laps[-2 * _WINDOW : -_WINDOW]
    return statistics.median(now) < 0.98 * statistics.median(before)


def _block(runner: Runner, passes: int, clock: Clock) -> float:
    """Return the seconds of one pass, from `passes` timed together."""
    start = clock()
    for _ in range(passes):
        runner.run()
    return (clock() - start) / passes


@contextmanager
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
