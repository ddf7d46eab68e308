"""The SQL store: its contract, and what is particular to it."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from autoprune.contracts.store import Entry, EventKind, Store
from autoprune.errors import RunError, StoreError, StoreUnavailableError
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


@pytest.mark.parametrize(
    "url", ["mysql://user:secret@host/db", "sqlite://", "://", "postgresql://u:secret@host:x/db"]
)
def test_other_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        SqlStore(url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'autoprune\[postgres\]'"):
        SqlStore("postgresql://user@host/db")


def test_commits_are_flushed_to_disk_and_readers_do_not_block(path: Path) -> None:
    store = SqlStore(path)
    with store._backend.engine.connect() as connection:
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
    sqlalchemy.event.listen(store._backend.engine, "commit", commits.append)
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
    other.execute("BEGIN EXCLUSIVE")
    store = SqlStore(path)  # opening and reading need no write lock
    assert len(list(store.events("a"))) == 1
    with store._backend.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    for refused in (
        lambda: store.append("a", [OPENED]),
        lambda: store.acquire("a", "me", 1.0),
        lambda: store.save_snapshot("a", 1, b""),
    ):
        with pytest.raises(StoreUnavailableError, match="locked"):
            refused()
    other.execute("COMMIT")
    store.append("a", [OPENED])
    store.close()
    other.close()


def test_a_thread_that_waits_too_long_for_its_turn_may_try_again(path: Path) -> None:
    with SqlStore(path) as store:
        store._backend.engine.pool._timeout = 0.05
        with store._transaction("take long"), pytest.raises(StoreUnavailableError):
            store.append("a", [OPENED])
        store.append("a", [OPENED], after=1)


def test_a_read_only_store_may_pass(path: Path) -> None:
    with SqlStore(path) as store:
        with store._backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(StoreUnavailableError, match="readonly"):
            store.append("a", [OPENED])
        with store._backend.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        store.append("a", [OPENED], after=1)


def test_a_directory_that_is_not_there_yet_may_come(tmp_path: Path) -> None:
    path = tmp_path / "away" / "store.db"
    with pytest.raises(StoreUnavailableError, match="unable to open"):
        SqlStore(path)
    path.parent.mkdir()
    SqlStore(path).close()


@pytest.mark.parametrize("code", ["INSERT INTO event SELECT * FROM event", "SELECT nonsense"])
def test_what_would_fail_again_is_not_said_to_pass(path: Path, code: str) -> None:
    with (
        SqlStore(path) as store,
        pytest.raises(StoreError) as caught,
        store._transaction("try", writes=True) as connection,
    ):
        connection.exec_driver_sql(code)
    assert not isinstance(caught.value, StoreUnavailableError)


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
        (Entry(EventKind.FAILED, 0, body={"x": float("nan")}), r"entry 1 \(FAILED\) is not plain"),
        (Entry(EventKind.COMPLETED), r"entry 1 \(COMPLETED\) must name its trial"),
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
        assert view.lease("a") is None
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
        view._backend.engine.connect() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM event")
    view.close()


def test_a_view_follows_a_writer(path: Path) -> None:
    with SqlStore(path, read_only=True) as view, SqlStore(path) as store:
        store.append("a", [OPENED])
        assert [event.seq for event in view.events("a")] == [1, 2]


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


def test_the_lease_runs_by_the_clock_of_the_database(path: Path) -> None:
    with SqlStore(path) as store:
        store.acquire("a", "one", 60.0)
    now = "(julianday('now') - 2440587.5) * 86400.0"
    with closing(sqlite3.connect(path)) as raw:
        (remaining,) = raw.execute(f"SELECT lease_until - {now} FROM job").fetchone()
    assert 0.0 < remaining <= 60.0


def test_trials_and_files_are_derived_from_the_events(path: Path) -> None:
    ask = {"searcher": "tpe", "rung": 1, "parent": None}
    evaluation = {"evaluation": {"weights": "ab.safetensors"}}
    slices = [
        {"progress": {"checkpoint": "one", "superseded": None}},
        {"progress": {"checkpoint": "two", "superseded": "one"}},
        {"failure": {"kind": "CRASH", "message": ""}},
    ]
    with SqlStore(path) as store:
        store.append("a", [Entry(EventKind.ASKED, 0, body=ask)])
        store.append("a", [Entry(EventKind.ASKED, 1, body={**ask, "parent": 0})])
        store.append("a", [Entry(EventKind.RETRIED, 0, 1), Entry(EventKind.FAILED, 1, 3)])
        store.append("a", [Entry(EventKind.COMPLETED, 0, 2, {"evaluation": {"weights": None}})])
        store.append("a", [Entry(EventKind.REPEATED, 1), Entry(EventKind.REPORTED, 0)])
        store.append("a", [Entry(EventKind.REPORTED, 0, body=evaluation)])
        for body in slices:
            store.append("a", [Entry(EventKind.TRAINED, body=body)])
        trials, artifacts = store.trials("a"), store.artifacts("a")
    first = {"number": 0, "parent": None, "state": "COMPLETED", "attempts": 2, "seq": 9}
    second = {"number": 1, "parent": 0, "state": "FAILED", "attempts": 3, "seq": 5}
    assert trials == [{"searcher": "tpe", "rung": 1, **each} for each in (first, second)]
    assert artifacts == [
        {"name": "ab.safetensors", "kind": "weights", "trial": 0, "seq": 9},
        {"name": "two", "kind": "checkpoint", "trial": None, "seq": 11},
    ]


def test_derived_rows_follow_thousands_of_entries_at_once(path: Path) -> None:
    with SqlStore(path) as store:
        store.append("a", [Entry(EventKind.ASKED, number) for number in range(3000)])
        store.append("a", [Entry(EventKind.STOPPED, number) for number in range(1, 3000)])
        assert [row["state"] for row in store.trials("a")] == ["WAITING"] + ["STOPPED"] * 2999


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


def test_an_outline_reads_every_kind_of_text(path: Path) -> None:
    # A file name that is no UTF-8 stands in a message as a lone surrogate.
    body = {"text": "\udcff ä \\ \n", "number": 0.1 + 0.2, "large": 2**70, "deep": [[{}]] * 3}
    with SqlStore(path) as store:
        store.append("a", [Entry(EventKind.CLOSED, body=body)])
        *_, newest = store.outline("a", bodies=[EventKind.CLOSED])
        assert newest.body == store.event("a", 2).body == body


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE event SET kind = 'TELEPORTED' WHERE seq = 2", "event 2 of job 'a'.*TELEPORTED"),
        ("UPDATE event SET body = '{' WHERE seq = 2", "event 2 of job 'a' is unreadable"),
        ("DELETE FROM trial", "event 2 of job 'a' asks trial 0.*doctor"),
    ],
)
def test_an_outline_of_a_damaged_log_says_where(path: Path, damage: str, message: str) -> None:
    with SqlStore(path) as store:
        store.append("a", [Entry(EventKind.ASKED, 0)])
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(damage)
    with SqlStore(path) as store, pytest.raises(StoreError, match=message):
        list(store.outline("a", bodies=[EventKind.ASKED]))
