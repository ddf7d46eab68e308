"""A made-up clock, and runners that take as long as they are told."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from autoprune.runtimes.runtime import Runner


class Clock:
    """Time that passes only while runners run."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(Runner):
    """Takes `seconds(pass, now)`."""

    def __init__(self, clock: Clock, seconds: Callable[[int, float], float]) -> None:
        self.clock = clock
        self.seconds = seconds
        self.passes = 0

    def run(self) -> None:
        self.clock.now += self.seconds(self.passes, self.clock.now)
        self.passes += 1

    def outputs(self) -> Tensor:
        raise NotImplementedError
