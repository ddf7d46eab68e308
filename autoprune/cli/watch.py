"""What a terminal shows of a server's jobs: a table of them, and one as it goes on."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoprune.contracts.store import Event, EventKind
from autoprune.errors import AutopruneError, ServiceError

if TYPE_CHECKING:
    from cluster.client import Client, JobStatus

_REFRESH_S = 0.5
# Without a terminal a line now and then is enough.
_PLAIN_REFRESH_S = 10.0
_SHOWN_FAILURES = 5
# Of what happened before: enough to find the newest failures in.
_RECENT_EVENTS = 500


def print_jobs(jobs: Sequence[JobStatus]) -> None:
    """Print a row for each job."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    numbers = ("trials", "front", "hypervolume", "minutes")
    for column in ("job", "state", "created", *numbers, "detail"):
        is_short = column != "detail"
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=is_short)
    for each in jobs:
        table.add_row(
            each.name,
            str(each.state),
            datetime.fromtimestamp(each.created).strftime("%Y-%m-%d %H:%M"),
            str(each.trials),
            str(each.front_size),
            "" if each.hypervolume is None else f"{each.hypervolume:.4f}",
            f"{each.elapsed_s / 60:.1f}",
            Text(each.detail),
        )
    Console(highlight=False).print(table)


def print_events(client: Client, job: str, after: int) -> JobStatus:
    """Print the events of a job, a line of JSON each, until it has ended; return how it is."""
    for event in client.watch(job, after):
        typer.echo(json.dumps(asdict(event)))
    return client.job(job)


def watch_live(
    connected: Callable[[Callable[[AutopruneError], None]], Client], job: str, after: int | None
) -> JobStatus:
    """Show a job until it has ended; return how it is. `connected` makes the client."""
    with LiveJob() as view, connected(view.wait) as client:
        view.show(client.job(job))
        since = max(0, view.status.sequence - _RECENT_EVENTS) if after is None else after
        for event in client.watch(job, since):
            view.take(event)
            if view.is_due:
                view.refresh(client)
        status = client.job(job)
    typer.echo(_summary(status))
    return status


class LiveJob:
    """Shows a job on standard error; use it as a context manager.

    On a terminal that is a few lines that change; elsewhere a line now and then, and the
    failures since the last one.
    """

    status: JobStatus

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._failures: deque[str] = deque(maxlen=_SHOWN_FAILURES)
        self._first: tuple[float, int] | None = None
        self._last = 0.0
        self._trouble = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    @property
    def is_due(self) -> bool:
        """Say whether what is shown is old."""
        pause = _REFRESH_S if self._live.is_started else _PLAIN_REFRESH_S
        return self._clock() - self._last >= pause

    def take(self, event: Event) -> None:
        """Take in an event of the job's log."""
        self._trouble = ""
        if event.kind in (EventKind.FAILED, EventKind.RETRIED):
            failure = event.body["failure"]
            again = " (tried again)" if event.kind is EventKind.RETRIED else ""
            message = failure["message"].strip().partition("\n")[0]
            self._failures.append(f"#{event.trial} {failure['kind']}{again}: {message}")

    def wait(self, error: AutopruneError) -> None:
        """Say that the server is away, once for each time that it goes."""
        if not self._trouble:
            self._trouble = f"waiting for the server: {error}"
            self._print()

    def refresh(self, client: Client) -> None:
        """Ask how the job is, and show it."""
        # Where the server went away, following the events goes on, and knows when to give up.
        with suppress(ServiceError):
            self.show(client.job(self.status.name))

    def show(self, status: JobStatus) -> None:
        """Show how a job is."""
        self.status = status
        self._last = self._clock()
        self._print()

    def _print(self) -> None:
        lines = [self._line(), *self._failures, *([self._trouble] if self._trouble else [])]
        if self._live.is_started:
            self._live.update(Text("\n".join(lines)), refresh=True)
        else:
            self._console.print(Text("\n".join(lines)), soft_wrap=True)
            self._failures.clear()

    def _line(self) -> str:
        """Return the job in one line: how many trials, how fast, how good."""
        if not hasattr(self, "status"):
            return "asking the server …"
        now, done = self._clock(), self.status.trials_by_state.get("completed", 0)
        if self._first is None or self._first[1] == 0:  # what comes before the first takes longer
            self._first = (now, done)
        seconds, finished = now - self._first[0], done - self._first[1]
        rate = f" · {finished / seconds:.1f}/s" if finished and seconds else ""
        return _summary(self.status) + rate


def _summary(status: JobStatus) -> str:
    counts = [f"{count} {state}" for state, count in sorted(status.trials_by_state.items())]
    parts = [f"{status.name} {status.state}", ", ".join(counts) or f"{status.trials} trials"]
    parts.append(f"front {status.front_size}")
    if status.hypervolume is not None:
        parts.append(f"hypervolume {status.hypervolume:.4f}")
    minutes, seconds = divmod(int(status.elapsed_s), 60)
    parts.append(f"{minutes}:{seconds:02}")
    return " · ".join(parts) + (f" · {status.detail}" if status.detail else "")
