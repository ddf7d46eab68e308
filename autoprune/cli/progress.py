"""The live line of work that takes a while: on standard error, replaced as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from autoprune.comparison.contest import Standing
    from autoprune.controller.progress import Progress

_REFRESH_S = 0.5
# Without a terminal a line now and then is enough.
_PLAIN_REFRESH_S = 10.0


class LiveLine:
    """Shows one line on standard error, `first` to begin with; use it as a context manager."""

    def __init__(self, first: str, *, is_shown: bool) -> None:
        self._first_line = first
        self._console = Console(stderr=True)
        self._is_shown = is_shown
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._last = 0.0

    def __enter__(self) -> Self:
        if self._is_shown and self._console.is_terminal:
            self._live.start()
        if self._is_shown:
            self._show(self._first_line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def tell(self, line: Callable[[float], str]) -> None:
        """Show another line, made of the time in seconds; at most twice a second."""
        now = time.monotonic()
        pause = _REFRESH_S if self._console.is_terminal else _PLAIN_REFRESH_S
        if self._is_shown and now - self._last >= pause:
            self._last = now
            self._show(line(now))

    def _show(self, line: str) -> None:
        if self._live.is_started:
            self._live.update(Text(line), refresh=True)
        else:
            self._console.print(line, highlight=False)


class LiveProgress(LiveLine):
    """Shows a search: trials, rate, time left, size and hypervolume of the front."""

    def __init__(self, *, is_shown: bool) -> None:
        super().__init__("tracing, proving groups, starting workers …", is_shown=is_shown)
        self._first: tuple[float, int] | None = None

    def __call__(self, look: Callable[[], Progress]) -> None:
        """Show how far the search is."""
        self.tell(lambda now: self._line(look(), now))

    def _line(self, progress: Progress, now: float) -> str:
        if progress.trouble is not None:
            return f"paused: {progress.trouble}"
        if progress.to_report is not None:
            return f"measuring on the report split: {progress.to_report} trials to go"
        if self._first is None:
            self._first = (now, progress.done)
        seconds, finished = now - self._first[0], progress.done - self._first[1]
        rate = finished / seconds if seconds > 0 else 0.0
        parts = [f"{progress.done} trials", f"{rate:.1f}/s"]
        if rate > 0 and (left := _seconds_left(progress, rate)) is not None:
            parts.append(_clock(left))
        parts.append(f"front {progress.front}")
        if progress.hypervolume is not None:
            parts.append(f"hypervolume {progress.hypervolume:.4f}")
        return " · ".join(parts)


class LiveStanding(LiveLine):
    """Shows a comparison: evaluations, what comes next, and the time left."""

    def __init__(self, *, is_shown: bool) -> None:
        super().__init__("tracing, proving groups …", is_shown=is_shown)
        self._first: tuple[float, int] | None = None

    def __call__(self, standing: Standing) -> None:
        """Show how far the comparison is."""
        self.tell(lambda now: self._line(standing, now))

    def _line(self, standing: Standing, now: float) -> str:
        if self._first is None:
            self._first = (now, standing.done)
        seconds, finished = now - self._first[0], standing.done - self._first[1]
        parts = [f"{standing.done} of {standing.total} evaluations", standing.doing]
        if finished > 0:
            parts.append(_clock((standing.total - standing.done) * seconds / finished))
        return " · ".join(parts)


def _clock(left: float) -> str:
    return f"{left // 60:.0f}:{left % 60:02.0f} left"


def _seconds_left(progress: Progress, rate: float) -> float | None:
    """Estimate from the budgets; whichever ends first counts."""
    limits = [] if progress.to_do is None else [progress.to_do / rate]
    if progress.seconds_left is not None:
        limits.append(progress.seconds_left)
    return min(limits) if limits else None
