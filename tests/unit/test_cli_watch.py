"""What a terminal shows of a job while it is searched."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

import pytest
from rich.console import Console

from autoprune.cli.watch import LiveJob, print_jobs
from autoprune.contracts.store import Event, EventKind
from autoprune.errors import ServiceError
from cluster.client import JobState, JobStatus
from tests.clock import Clock


def status(completed: int = 0, state: JobState = JobState.RUNNING, detail: str = "") -> JobStatus:
    counts: Mapping[str, int] = {"completed": completed, "failed": 2} if completed else {}
    return JobStatus("digits", state, detail, {}, 1.7e9, 9, completed + 2, counts, 4, 0.51234, 75.0)


def failed(number: int, kind: EventKind = EventKind.FAILED) -> Event:
    body = {"failure": {"kind": "CRASH", "message": f"signal {number}\nand a trace"}}
    return Event(number, 0.0, kind, number, 1, body)


def shown(*, is_terminal: bool, clock: Clock | None = None) -> tuple[LiveJob, StringIO]:
    output = StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=120)
    return LiveJob(console, clock or Clock()), output


def test_a_job_is_a_line_with_its_newest_failures() -> None:
    clock = Clock()
    view, output = shown(is_terminal=False, clock=clock)
    with view:
        view.show(status())
        clock.now += 60.0  # Ray is being started
        view.show(status(5))
        for number in range(1, 8):
            view.take(failed(number, EventKind.RETRIED if number == 4 else EventKind.FAILED))
        clock.now += 2.0
        view.show(status(11))
    first, begun, later, *failures = output.getvalue().splitlines()
    assert first == "digits RUNNING · 2 trials · front 4 · hypervolume 0.5123 · 1:15"
    assert begun.endswith("5 completed, 2 failed · front 4 · hypervolume 0.5123 · 1:15")
    assert later.endswith("· 3.0/s")
    assert failures == [
        "#3 CRASH: signal 3",
        "#4 CRASH (tried again): signal 4",
        *(f"#{number} CRASH: signal {number}" for number in (5, 6, 7)),
    ]


def test_on_a_terminal_the_lines_are_replaced() -> None:
    view, output = shown(is_terminal=True)
    with view:
        view.show(status(1))
        view.take(failed(7))
        view.show(status(2))
    assert output.getvalue().count("\x1b[2K") >= 2
    assert "#7 CRASH: signal 7" in output.getvalue()


def test_a_server_that_is_away_is_told_once_for_each_time() -> None:
    view, output = shown(is_terminal=False)
    with view:
        for _ in range(2):
            view.wait(ServiceError("no answer"))
        view.show(status(1))
        view.take(failed(1))
        view.wait(ServiceError("again"))
    assert output.getvalue().count("asking the server") == 1
    assert output.getvalue().count("waiting for the server: no answer") == 2
    assert output.getvalue().count("waiting for the server: again") == 1


def test_what_is_shown_is_old_after_a_while() -> None:
    clock = Clock()
    for is_terminal, pause in ((True, 0.5), (False, 10.0)):
        view, _ = shown(is_terminal=is_terminal, clock=clock)
        with view:
            view.show(status())
            clock.now += 0.9 * pause
            assert not view.is_due
            clock.now += 0.2 * pause
            assert view.is_due


def test_jobs_stand_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_jobs([status(3), status(1, JobState.FAILED, "[red] is no markup")])
    output = " ".join(capsys.readouterr().out.split())
    assert "digits RUNNING 2023-11-1" in output
    assert "5 4 0.5123 1.2" in output
    assert "[red] is no markup" in output
