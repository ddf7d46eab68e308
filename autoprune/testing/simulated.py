"""An executor on a fake clock: any number of workers, in the time that its controller takes.

    executor = SimulatedExecutor(evaluator, 1000, lambda item: 30.0)
    SearchLoop(state, store, lambda: executor).run()
    executor.busy_share                   # of 1,000 workers, had they been there

Evaluations cost nothing; what they would take is added to the clock. The controller runs as
it always does, and the clock runs with it, so that workers wait for it as real ones would.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from autoprune.contracts.executor import Evaluator, Executor, Result, WorkItem
from autoprune.contracts.training import TrainingItem
from autoprune.errors import ExecutorError
from autoprune.executor.local import performed

Item: TypeAlias = WorkItem | TrainingItem


class SimulatedExecutor(Executor):
    """`workers` workers, of which each takes `seconds(item)` of the fake clock per item."""

    def __init__(
        self, evaluator: Evaluator, workers: int, seconds: Callable[[Item], float]
    ) -> None:
        self._evaluator = evaluator
        self._seconds = seconds
        self._workers = workers
        self._running: list[tuple[float, int, Item]] = []
        self._order = itertools.count()
        self._skipped_s = 0.0
        self._spans: list[tuple[float, float]] = []
        self._full_s: float | None = None
        self._is_closed = False

    @property
    def now_s(self) -> float:
        """The fake clock: real time, and what was skipped of the workers' time."""
        return time.perf_counter() + self._skipped_s

    @property
    def busy_share(self) -> float:
        """Share of the workers' time that went into items.

        From when all of them are first at work until the last item is started.
        """
        assert self._full_s is not None, "the workers were never all at work"
        first, last = self._full_s, max(start for start, _ in self._spans)
        spent = sum(max(0.0, min(end, last) - max(start, first)) for start, end in self._spans)
        return spent / (self._workers * (last - first))

    @property
    def free(self) -> int:
        """Workers without an item."""
        return 0 if self._is_closed else self._workers - len(self._running)

    def submit(self, item: Item) -> None:
        """Give an item to a worker; raises `ExecutorError` if none is free."""
        if not self.free:
            raise ExecutorError("no free worker: call wait before the next submit")
        now, seconds = self.now_s, self._seconds(item)
        self._spans.append((now, now + seconds))
        heapq.heappush(self._running, (now + seconds, next(self._order), item))
        if self._full_s is None and not self.free:
            self._full_s = now

    def wait(self, timeout_s: float) -> Sequence[Result]:
        """Return what has ended by now; if nothing has, the clock skips to what ends next."""
        if not self._running:
            return []
        self._skipped_s += max(0.0, self._running[0][0] - self.now_s)
        now, done = self.now_s, []
        while self._running and self._running[0][0] <= now:
            _, _, item = heapq.heappop(self._running)
            done.append(performed(self._evaluator, item))
        return done

    def close(self) -> None:
        """Drop what runs."""
        self._is_closed = True
        self._running = []
