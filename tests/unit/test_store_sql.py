"""The SQL store: its contract, and what is particular to it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from autoprune.contracts.store import Entry, EventKind, Store
from autoprune.errors import RunError, StoreError
from autoprune.store.sql import PAGE, SqlStore
from autoprune.testing import StoreContract

OPENED = Entry(EventKind.OPENED)


class TestSqlStore(StoreContract):
    def make_store(self, tmp_path: Path) -> Store:
        return SqlStore(tmp_path / "odd name?#%41.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a store with job "a" and one event."""
    path = tmp_path / "store.db"
    with SqlStore(path) as store:
        store.create_job("a", {})
        store.append("a", [OPENED])
    return path


def test_a_url_and_a_path_open_the_same_store(path: Path) -> None:
    with SqlStore(f"sqlite:///{path}") as store:
        assert [job.name for job in store.jobs()] == ["a"]


@pytest.mark.parametrize("url", ["postgresql://user:secret@host/db", "sqlite://", "://"])
def test_other_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        SqlStore(url)
    assert "secret" not in str(caught.value)


def test_commits_are_flushed_to_disk_and_readers_do_not_block(path: Path) -> None:
    store = SqlStore(path)
    with store._engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    store.close()
    full = 2
    assert found == {
        "journal_mode": "wal",
        "synchronous": full,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_one_append_is_one_transaction(path: Path) -> None:
    commits: list[object] = []
    store = SqlStore(path)
    sqlalchemy.event.listen(store._engine, "commit", commits.append)
    store.append("a", [OPENED] * 50)
    store.close()
    assert len(commits) == 1


def test_a_failure_inside_the_transaction_writes_nothing(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute(
            "CREATE TRIGGER full BEFORE INSERT ON event WHEN new.seq = 4 "
            "BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
    raw.close()
    with SqlStore(path) as store:
        with pytest.raises(StoreError, match=r"append to job 'a'.*disk is full"):
            store.append("a", [OPENED] * 5)
        assert [event.seq for event in store.events("a")] == [1]
        store.append("a", [OPENED] * 2)
        assert [event.seq for event in store.events("a")] == [1, 2, 3]


def test_the_writer_waits_for_another_process_to_finish(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = SqlStore(path)  # opening and reading need no write lock
    assert len(list(store.events("a"))) == 1
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    with pytest.raises(StoreError, match="locked"):
        store.append("a", [OPENED])
    other.execute("COMMIT")
    store.append("a", [OPENED])
    store.close()
    other.close()


def test_events_are_read_in_pages_and_none_is_lost_between_them(path: Path) -> None:
    with SqlStore(path) as store:
        store.append("a", [OPENED] * (2 * PAGE - 1))  # a last page that is exactly full
        assert [event.seq for event in store.events("a")] == list(range(1, 2 * PAGE + 1))


def test_half_read_events_do_not_block_the_only_connection(path: Path) -> None:
    with SqlStore(path) as store:
        store.append("a", [OPENED] * PAGE)
        events = store.events("a")
        next(events)
        store.append("a", [OPENED])
        assert [event.seq for event in events] == list(range(2, PAGE + 3))


def test_events_of_an_unknown_job_raise_before_the_first_is_asked_for(path: Path) -> None:
    with SqlStore(path) as store, pytest.raises(StoreError, match="has no job 'b'; allowed: a"):
        store.events("b")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Entry("COMPLETE"), "did you mean 'COMPLETED'"),  # type: ignore[arg-type]
        (Entry(EventKind.ASKED, trial=-1), "trial must be a whole number"),
        (Entry(EventKind.ASKED, trial=1.5), "trial must be a whole number"),  # type: ignore[arg-type]
        (Entry(EventKind.FAILED, attempt=2**40), "attempt must be a whole number"),
        (Entry(EventKind.FAILED, body={"x": float("nan")}), r"entry 1 \(FAILED\)"),
    ],
)
def test_a_bad_entry_is_named(path: Path, entry: Entry, message: str) -> None:
    with SqlStore(path) as store:
        with pytest.raises(StoreError, match=message):
            store.append("a", [OPENED, entry])
        assert len(list(store.events("a"))) == 1


def test_a_specification_that_is_not_json_creates_no_job(path: Path) -> None:
    with SqlStore(path) as store:
        with pytest.raises(StoreError, match="specification of job 'b'"):
            store.create_job("b", {"path": path})
        assert [job.name for job in store.jobs()] == ["a"]


def test_a_closed_store_says_so(path: Path) -> None:
    store = SqlStore(path)
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.jobs()


def test_reading_a_missing_run_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run at"):
        SqlStore(tmp_path / "store.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_view_reads_and_never_writes(path: Path) -> None:
    before = path.read_bytes()
    with SqlStore(path, read_only=True) as view:
        assert [event.seq for event in view.events("a")] == [1]
        with pytest.raises(StoreError, match="reading only"):
            view.append("a", [OPENED])
        with pytest.raises(StoreError, match="reading only"):
            view.create_job("b", {})
    assert path.read_bytes() == before


def test_the_database_itself_refuses_what_a_view_writes(path: Path) -> None:
    view = SqlStore(path, read_only=True)
    with (
        pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"),
        view._engine.connect() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM event")
    view.close()


def test_a_view_follows_a_writer(path: Path) -> None:
    with SqlStore(path, read_only=True) as view, SqlStore(path) as store:
        store.append("a", [OPENED])
        assert [event.seq for event in view.events("a")] == [1, 2]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    raw = sqlite3.connect(path)
    with raw:
        raw.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer autoprune \(schema 99; this one knows 2\)"):
        SqlStore(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_of_something_else_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "store.db"
    path.write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        SqlStore(path, read_only=read_only)


def test_a_view_of_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    sqlite3.connect(path).execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(StoreError, match="not a store of autoprune"):
        SqlStore(path, read_only=True)


def test_an_event_of_an_unknown_kind_is_an_error_that_names_it(path: Path) -> None:
    raw = sqlite3.connect(path)
    with raw:
        raw.execute("UPDATE event SET kind = 'TELEPORTED'")
    raw.close()
    with (
        SqlStore(path) as store,
        pytest.raises(StoreError, match=r"event 1 of job 'a'.*TELEPORTED"),
    ):
        list(store.events("a"))
