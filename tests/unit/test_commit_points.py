"""A search that is ended anywhere, and started again, comes to the same end.

The searches run in processes of their own, forked from one that has imported everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy

from autoprune import artifacts
from autoprune.contracts.executor import WorkItem
from autoprune.contracts.store import EventKind
from autoprune.controller import loop
from autoprune.controller.roster import Roster
from autoprune.controller.state import JobState
from autoprune.doctor import Health, examine_run
from autoprune.executor.local import LocalExecutor
from autoprune.run import FILES_NAME
from autoprune.store import sql
from autoprune.store.history import History
from autoprune.store.location import STORE_NAME
from autoprune.trial import Evaluation
from tests.searching import SmallEvaluator, small_job, small_search

GONE = 9
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "agents.nsga2", "agents.tpe"])
ONE, TWO_RUNGS = "one searcher", "a portfolio over two rungs"
JOBS: dict[str, dict[str, Any]] = {
    ONE: {"searchers": ["nsga2"]},
    TWO_RUNGS: {
        "searchers": ["nsga2", "tpe"],
        "rungs": [{}, {"images": 10}],
        "constraints": ["macs <= 0.9 * dense"],
    },
}


class KeepingEvaluator(SmallEvaluator):
    """Keeps a file for every evaluation, as real ones keep weights, and notes that it ran."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def evaluate(self, item: WorkItem) -> Evaluation:
        done = f"{item.trial} {item.split}\n"
        with (self.directory / "ran").open("a") as file:
            file.write(done)
        measured = super().evaluate(item).measurements
        files = self.directory / FILES_NAME
        weights = artifacts.write_artifact(files, done.encode(), ".safetensors")
        return Evaluation(measured, weights=weights)


def search(directory: Path, name: str) -> None:
    """Search in `directory`, or go on with the search there."""
    loop._SNAPSHOT_EVERY = 4
    (directory / FILES_NAME).mkdir(parents=True, exist_ok=True)
    job = small_job(**JOBS[name], budget={"trials": 14})
    small_search(job, directory / STORE_NAME, evaluator=KeepingEvaluator(directory))


Passage = Callable[[], None]


def before(owner: Any, name: str) -> Callable[[Passage], None]:
    """Return what places a point before every call of a function."""

    def place(passed: Passage) -> None:
        called = getattr(owner, name)

        def wrapped(*given: Any, **options: Any) -> Any:
            passed()
            return called(*given, **options)

        setattr(owner, name, wrapped)

    return place


def after(owner: Any, name: str) -> Callable[[Passage], None]:
    """Return what places a point after every call of a function."""

    def place(passed: Passage) -> None:
        called = getattr(owner, name)

        def wrapped(*given: Any, **options: Any) -> Any:
            result = called(*given, **options)
            passed()
            return result

        setattr(owner, name, wrapped)

    return place


def written(kind: EventKind) -> Callable[[Passage], None]:
    """Return what places a point after every commit of an event of `kind`."""

    def place(passed: Passage) -> None:
        append = sql.SqlStore.append

        def wrapped(self: sql.SqlStore, job: str, new: Any, **options: Any) -> Any:
            events = append(self, job, new, **options)
            if any(event.kind is kind for event in events):
                passed()
            return events

        sql.SqlStore.append = wrapped  # type: ignore[method-assign]

    return place


def committing(passed: Passage) -> None:
    """Place a point at the end of every transaction, before its COMMIT."""
    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", lambda _: passed())


@dataclass(frozen=True)
class Point:
    """Where a process ends at the `last` passage, and whether its evaluation is lost then."""

    place: Callable[[Passage], None]
    last: int = 6
    costs: bool = False


# By the numbers of the loop's docstring.
POINTS = {
    "1 a searcher was asked": Point(after(Roster, "ask")),
    "2 the log is written, the tables that follow are not": Point(before(sql, "derive"), 9, True),
    "2 a transaction is about to be committed": Point(committing, 41, True),
    "2 ASKED was committed": Point(written(EventKind.ASKED)),
    "3 a trial was submitted": Point(after(LocalExecutor, "submit")),
    "4 a file was written": Point(before(os, "fsync"), 7, True),
    "4 a file was flushed": Point(before(Path, "rename"), costs=True),
    "4 a file was renamed": Point(after(Path, "rename"), costs=True),
    "4 a result came in": Point(after(LocalExecutor, "wait"), costs=True),
    "5 COMPLETED was committed": Point(written(EventKind.COMPLETED)),
    "6 the state knows": Point(after(JobState, "apply"), 12),
    "6 searchers were told": Point(after(Roster, "learn")),
    "7 a snapshot is about to be kept": Point(before(sql.SqlStore, "save_snapshot"), 2),
    "7 a snapshot was kept": Point(after(sql.SqlStore, "save_snapshot"), 2),
    "8 REPORTED was committed": Point(written(EventKind.REPORTED), 2),
    "9 the executor was closed": Point(after(LocalExecutor, "close"), 1),
    "10 CLOSED was committed": Point(written(EventKind.CLOSED), 1),
}


def search_until(directory: Path, name: str, point: str) -> None:
    """Search until the last passage of a point; then the process is gone without a goodbye."""
    chosen, passages = POINTS[point], 0

    def passed() -> None:
        nonlocal passages
        passages += 1
        if passages == chosen.last:
            os._exit(GONE)

    chosen.place(passed)
    search(directory, name)


def search_and_tell(directory: Path, name: str, told: Connection) -> None:
    """Search, and send something at every commit; then wait to be killed."""
    after(sql.SqlStore, "append")(lambda: told.send(None))
    search(directory, name)
    told.close()
    signal.pause()


def exit_code(target: Callable[..., None], *given: Any) -> int | None:
    """Return how a process ended that calls `target`."""
    process = PROCESSES.Process(target=target, args=given)
    process.start()
    process.join(60)
    return process.exitcode


def end_of(directory: Path) -> tuple[str, set[str]]:
    """Return the digest of a search and the names of its files; the run must be sound."""
    findings = examine_run(directory)
    assert [each for each in findings if each.health is Health.BROKEN] == []
    with sql.SqlStore(directory / STORE_NAME, read_only=True) as store:
        history = History.replay(store.events("job"))
        assert history.close_reason == "finished"
        return history.digest(), {row["name"] for row in store.artifacts("job")}


@cache
def clean(name: str) -> tuple[str, set[str]]:
    """Return the end of a search that nothing happened to."""
    with TemporaryDirectory() as directory:
        assert exit_code(search, Path(directory), name) == 0
        return end_of(Path(directory))


@pytest.mark.parametrize("point", POINTS)
def test_an_exit_at_any_point_of_the_commit_protocol_changes_nothing(
    tmp_path: Path, point: str
) -> None:
    name = TWO_RUNGS
    exits = [exit_code(search_until, tmp_path, name, point) for _ in range(2)]
    assert exits[0] == GONE
    assert exit_code(search, tmp_path, name) == 0
    assert end_of(tmp_path) == clean(name)
    ran = Counter((tmp_path / "ran").read_text().splitlines())
    again = ran.total() - len(ran)
    assert again <= (exits.count(GONE) if POINTS[point].costs else 0)


@pytest.mark.parametrize("name", JOBS)
def test_a_search_that_is_killed_again_and_again_comes_to_the_same_end(
    tmp_path: Path, name: str
) -> None:
    for commits in (1, 8, 15, 4):
        told, tell = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=search_and_tell, args=(tmp_path, name, tell))
        process.start()
        tell.close()
        with told, suppress(EOFError):
            for _ in range(commits):
                told.recv()
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert exit_code(search, tmp_path, name) == 0
    assert end_of(tmp_path) == clean(name)
