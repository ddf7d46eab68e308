"""The simulated executor: its clock skips what evaluations take, and counts idle workers."""

from __future__ import annotations

import time

import pytest

from autoprune.errors import ExecutorError
from autoprune.testing.evaluators import ScriptedEvaluator, item
from autoprune.testing.simulated import SimulatedExecutor


def test_items_end_in_the_order_of_the_fake_clock_and_at_once() -> None:
    seconds = {0: 300.0, 1: 100.0, 2: 200.0}
    executor = SimulatedExecutor(ScriptedEvaluator(), 3, lambda x: seconds[x.trial])  # type: ignore[union-attr]
    start, clock = time.monotonic(), executor.now_s
    for number in seconds:
        executor.submit(item(number))
    assert executor.free == 0
    with pytest.raises(ExecutorError, match="no free worker"):
        executor.submit(item(9))
    order = [each.item.trial for _ in seconds for each in executor.wait(0.1)]  # type: ignore[union-attr]
    assert order == [1, 2, 0]
    assert executor.now_s - clock == pytest.approx(300.0, abs=5.0)
    assert time.monotonic() - start < 5.0
    assert executor.wait(0.1) == []


def test_idle_workers_are_counted() -> None:
    executor = SimulatedExecutor(ScriptedEvaluator(), 2, lambda _: 100.0)
    for number in (0, 1):
        executor.submit(item(number))
    while executor.free < 2:
        executor.wait(1.0)
    executor.submit(item(2))  # one of two workers goes on
    executor.wait(1.0)
    executor.submit(item(3))
    assert executor.busy_share == pytest.approx(0.75, abs=0.01)


def test_it_takes_nothing_once_closed() -> None:
    executor = SimulatedExecutor(ScriptedEvaluator(), 2, lambda _: 1.0)
    executor.submit(item(0))
    executor.close()
    assert executor.free == 0
    assert executor.wait(0.1) == []
