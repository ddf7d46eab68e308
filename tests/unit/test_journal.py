"""The journal loses nothing while storage cannot serve, and writes nothing twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune.contracts.store import Entry, Event
from autoprune.controller.journal import Journal
from autoprune.errors import FencedError, StoreError, StoreUnavailableError
from autoprune.policy import Policy
from autoprune.store import entries
from autoprune.store.sql import SqlStore


def ask(number: int) -> Entry:
    return entries.asked(number, Policy(), "random", rung=0, parent=None, batch=0)


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    store = SqlStore(tmp_path / "store.sqlite")
    store.create_job("a", {})
    return store


class Flaky(SqlStore):
    """A store whose appends fail `failures` times; with `late`, after they have written."""

    def __init__(self, path: Path, *, failures: int, late: bool) -> None:
        super().__init__(path)
        self.failures = failures
        self.late = late

    def append(self, job: str, new: Sequence[Entry], **options: Any) -> Sequence[Event]:
        if self.failures > 0 and not self.late:
            self.failures -= 1
            raise StoreUnavailableError("gone")
        written = super().append(job, new, **options)
        if self.failures > 0:
            self.failures -= 1
            raise StoreUnavailableError("gone in the middle of the commit")
        return written


def kinds(store: SqlStore) -> list[str]:
    return [str(each.kind) for each in store.events("a")]


def test_what_is_staged_is_written_by_one_flush_as_it_was_announced(store: SqlStore) -> None:
    journal = Journal(store, "a")
    announced = [*journal.stage([entries.opened(), ask(0)]), *journal.stage([ask(1)])]
    assert kinds(store) == []
    journal.flush()
    written = list(store.events("a"))
    assert [(x.seq, x.kind, x.trial, x.body) for x in written] == [
        (x.seq, x.kind, x.trial, x.body) for x in announced
    ]
    assert len({each.time for each in written}) == 1  # one transaction
    journal.stage([ask(2)])
    journal.flush()
    assert [x.seq for x in store.events("a")] == [1, 2, 3, 4]


@pytest.mark.parametrize("late", [False, True])
def test_an_outage_pauses_and_nothing_is_lost_or_doubled(
    store: SqlStore, tmp_path: Path, late: bool
) -> None:
    flaky = Flaky(tmp_path / "store.sqlite", failures=3, late=late)
    pauses: list[float] = []
    troubles: list[str | None] = []

    def idle(seconds: float) -> None:
        pauses.append(seconds)
        troubles.append(journal.trouble)

    journal = Journal(flaky, "a", idle=idle)
    journal.stage([entries.opened(), ask(0)])
    journal.flush()
    assert kinds(store) == ["OPENED", "ASKED"]
    assert len(pauses) == (1 if late else 3)
    assert pauses == sorted(pauses)
    assert all(each is not None and "gone" in each for each in troubles)
    assert journal.trouble is None
    journal.stage([ask(1)])
    journal.flush()
    assert kinds(store) == ["OPENED", "ASKED", "ASKED"]


def test_a_wait_can_be_interrupted(store: SqlStore, tmp_path: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    flaky = Flaky(tmp_path / "store.sqlite", failures=10**6, late=False)
    journal = Journal(flaky, "a", idle=interrupt)
    journal.stage([entries.opened()])
    with pytest.raises(KeyboardInterrupt):
        journal.flush()


def test_a_locked_store_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.store.sqlite.WAIT_S", 0.05)
    path = tmp_path / "store.sqlite"
    with SqlStore(path) as store:
        store.create_job("a", {})
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waits = []

        def idle(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 2:
                other.execute("ROLLBACK")

        journal = Journal(store, "a", idle=idle)
        journal.stage([entries.opened()])
        journal.flush()
        other.close()
        assert len(waits) == 2
        assert kinds(store) == ["OPENED"]


def test_the_journal_of_an_old_epoch_writes_nothing(store: SqlStore) -> None:
    old = store.acquire("a", "one", 0.0)
    new = store.acquire("a", "two", 60.0)
    journal = Journal(store, "a", epoch=old)
    journal.stage([entries.opened()])
    with pytest.raises(FencedError):
        journal.flush()
    with pytest.raises(FencedError):
        journal.save_snapshot(b"old")
    assert kinds(store) == []
    assert list(store.snapshots("a")) == []
    journal = Journal(store, "a", epoch=new)
    journal.stage([entries.opened()])
    journal.flush()
    assert kinds(store) == ["OPENED"]


def test_a_log_that_others_wrote_is_not_written_on(store: SqlStore) -> None:
    journal = Journal(store, "a")
    store.append("a", [entries.opened()])
    journal.stage([entries.opened()])
    with pytest.raises(StoreError):
        journal.flush()
    assert kinds(store) == ["OPENED"]
