"""The live line of a search: trials, rate, time left, size and hypervolume of the front."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autoprune.controller.agenda import Agenda
from autoprune.controller.roster import baseline_labels

_REFRESH_S = 0.5
# Without a terminal a line now and then is enough.
_PLAIN_REFRESH_S = 10.0


class LiveProgress:
    """Shows the progress of a search on standard error; use it as a context manager."""

    def __init__(self, *, is_shown: bool) -> None:
        self._console = Console(stderr=True)
        self._is_shown = is_shown
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._last = 0.0
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        if self._is_shown and self._console.is_terminal:
            self._live.start()
        if self._is_shown:
            self._show("tracing, proving groups, starting workers …")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def __call__(self, agenda: Agenda) -> None:
        """Take in the state of the search; redraws at most twice a second."""
        now = time.monotonic()
        pause = _REFRESH_S if self._console.is_terminal else _PLAIN_REFRESH_S
        if self._is_shown and now - self._last >= pause:
            self._last = now
            self._show(self._line(agenda, now))

    def _line(self, agenda: Agenda, now: float) -> str:
        state = agenda.state
        if agenda.to_report is not None:
            return f"measuring on the report split: {agenda.to_report} trials to go"
        done = len(state.completed(0))
        if self._first is None:
            self._first = (now, done)
        seconds, finished = now - self._first[0], done - self._first[1]
        rate = finished / seconds if seconds > 0 else 0.0
        parts = [f"{done} trials", f"{rate:.1f}/s"]
        if rate > 0 and (left := self._seconds_left(agenda, rate)) is not None:
            parts.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
        front = state.front
        parts.append(f"front {len(front.members)}")
        volume = front.hypervolume() if front.members else None
        if volume is not None:
            parts.append(f"hypervolume {volume:.4f}")
        return " · ".join(parts)

    def _seconds_left(self, agenda: Agenda, rate: float) -> float | None:
        """Estimate from the budgets; whichever ends first counts."""
        job, state = agenda.job, agenda.state
        limits = []
        if job.budget.trials is not None:
            open_baselines = sum(
                max(0, job.baselines.trials - state.count([label]))
                for label in baseline_labels(job)
                if not state.roster.members[label].is_retired
            )
            open_trials = max(0, job.budget.trials - agenda.searched)
            limits.append((open_trials + open_baselines) / rate)
        if job.budget.minutes is not None:
            limits.append(max(0.0, 60 * job.budget.minutes - agenda.elapsed_s))
        return min(limits) if limits else None

    def _show(self, line: str) -> None:
        if self._live.is_started:
            self._live.update(Text(line), refresh=True)
        else:
            self._console.print(line, highlight=False)
