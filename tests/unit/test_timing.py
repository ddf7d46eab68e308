"""Timing by comparison: drift, noise, warming up and short passes, by a made-up clock."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.runtimes import timing
from autoprune.runtimes.catalog import create
from tests.clock import Clock, Timed


def test_drift_cancels() -> None:
    clock = Clock()
    # Slower by 0.4 % every millisecond, as it is in the middle of a pass.
    candidate = Timed(clock, lambda _, now: 0.001 * (1 + 4 * (now + 0.0005)))
    reference = Timed(clock, lambda _, now: 0.002 * (1 + 4 * (now + 0.001)))
    found = timing.compare(candidate, reference, precision=0.01, seconds=1.0, clock=clock)
    assert found.ratio.value == pytest.approx(0.5, rel=1e-3)  # in plain turns 0.6 % off
    assert found.candidate_ms.value == pytest.approx(found.reference_ms.value / 2, rel=2e-2)
    assert found.note == ""


@pytest.mark.parametrize("spread", [0.003, 0.1])
def test_timing_stops_once_it_is_precise(spread: float) -> None:
    clock, rng = Clock(), np.random.default_rng(0)

    def noisy(seconds: float) -> Callable[[int, float], float]:
        return lambda _, __: seconds * float(rng.lognormal(0, spread))

    pair = [Timed(clock, noisy(0.003)), Timed(clock, noisy(0.004))]
    found = timing.compare(pair[0], pair[1], precision=0.03, seconds=60.0, clock=clock)
    ratio = found.ratio
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(0.75, rel=0.03)
    assert ratio.high - ratio.low <= 0.03 * ratio.value
    assert clock.now < 0.5 if spread < 0.01 else clock.now > 0.5


def test_a_machine_that_is_too_noisy_is_named() -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    runners = [Timed(clock, lambda _, __: 0.01 * float(rng.lognormal(0, 0.5))) for _ in range(2)]
    found = timing.compare(runners[0], runners[1], precision=0.03, seconds=2.0, clock=clock)
    assert "too noisy for 3.0%" in found.note
    assert "after 2." in found.note
    alone = timing.alone(runners[0], precision=0.03, seconds=2.0, clock=clock)
    assert "too noisy for 3.0%" in alone.note
    assert clock.now < 10


def test_warming_up_is_not_timed() -> None:
    clock = Clock()
    runner = Timed(clock, lambda index, _: 0.001 + 0.01 * 0.9**index)
    found = timing.alone(runner, precision=0.5, seconds=1.0, clock=clock)
    assert found.value == pytest.approx(1.0, rel=0.05)


def test_short_passes_are_timed_in_blocks() -> None:
    class Coarse(Clock):
        def __call__(self) -> float:
            return 1e-6 * (self.now // 1e-6)

    clock = Coarse()
    pair = [Timed(clock, lambda _, __: 2.5e-6), Timed(clock, lambda _, __: 7.3e-6)]
    found = timing.compare(pair[0], pair[1], precision=0.01, seconds=1.0, clock=clock)
    assert found.ratio.value == pytest.approx(2.5 / 7.3, rel=0.01)


def test_slow_networks_are_timed_a_few_times_whatever_the_limit() -> None:
    clock = Clock()
    pair = [Timed(clock, lambda _, __: 3.0), Timed(clock, lambda _, __: 4.0)]
    found = timing.compare(pair[0], pair[1], precision=0.03, seconds=1.0, clock=clock)
    assert found.ratio.value == pytest.approx(0.75)
    assert pair[0].passes == 13  # one to warm up, and two in each of six rounds


def test_nothing_is_collected_while_timing() -> None:
    states: list[bool] = []

    def watched(_: int, __: float) -> float:
        states.append(gc.isenabled())
        return 0.001

    timing.alone(
        Timed(Clock(), watched), precision=0.5, seconds=0.1, clock=itertools.count().__next__
    )
    assert states[-1] is False
    assert gc.isenabled()


def test_a_smaller_network_is_faster() -> None:
    networks = [nn.Conv2d(64, each, 3, padding=1).eval() for each in (8, 128)]
    runtime, example = create("torch"), torch.randn(1, 64, 24, 24)
    small, large = (runtime.build(each, example) for each in networks)
    with large, small:
        found = timing.compare(small, large, precision=0.1, seconds=0.5)
    assert found.ratio.value < 0.6
