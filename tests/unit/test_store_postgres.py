"""The store on PostgreSQL: its contract, and what is particular to it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from autoprune.contracts.store import Entry, EventKind, Store
from autoprune.errors import FencedError, StoreError, StoreUnavailableError
from autoprune.store.sql import SqlStore
from autoprune.testing import StoreContract
from tests.postgres import shared_server

OPENED = Entry(EventKind.OPENED)


class TestPostgresStore(StoreContract):
    def make_store(self, tmp_path: Path) -> Store:
        url = tmp_path / "url"  # a file, for other processes
        if not url.exists():
            url.write_text(shared_server().new_database())
        return SqlStore(url.read_text())


@pytest.fixture
def url() -> str:
    """Return the URL of a store with job "a" and one event."""
    url = shared_server().new_database()
    with SqlStore(url) as store:
        store.create_job("a", {})
        store.append("a", [OPENED])
    return url


def test_a_lost_connection_is_made_anew(url: str) -> None:
    with SqlStore(url) as store:
        store.append("a", [OPENED])
        shared_server().cut_connections(url)
        store.append("a", [OPENED])
        assert [event.seq for event in store.events("a")] == [1, 2, 3]


def test_a_connection_lost_within_a_transaction_writes_nothing_and_may_pass(url: str) -> None:
    with SqlStore(url) as store:
        with pytest.raises(StoreUnavailableError, match="cannot do this"):  # noqa: SIM117
            with store._transaction("do this", writes=True) as connection:
                connection.exec_driver_sql("UPDATE job SET epoch = 7")
                shared_server().cut_connections(url)
                connection.exec_driver_sql("SELECT 1")
        store.append("a", [OPENED])
        assert len(list(store.events("a"))) == 2


def test_a_stopped_server_is_waited_for_and_a_crash_loses_nothing(url: str) -> None:
    server = shared_server()
    with SqlStore(url) as store, SqlStore(url, read_only=True) as view:
        assert len(list(view.events("a"))) == 1
        store.append("a", [OPENED] * 9)
        server.stop("immediate")
        try:
            for call in (
                lambda: store.append("a", [OPENED]),
                lambda: list(view.events("a")),
                lambda: store.acquire("a", "me", 1.0),
                lambda: SqlStore(url),
            ):
                with pytest.raises(StoreUnavailableError):
                    call()
        finally:
            server.start()
        assert len(list(view.events("a"))) == 10
        store.append("a", [OPENED], after=10)


@pytest.mark.parametrize(
    ("kind", "may_pass"),
    [
        (psycopg.errors.DiskFull, True),
        (psycopg.errors.TooManyConnections, True),
        (psycopg.errors.AdminShutdown, True),
        (psycopg.errors.CannotConnectNow, True),
        (psycopg.errors.QueryCanceled, True),
        (psycopg.errors.SerializationFailure, True),
        (psycopg.errors.ReadOnlySqlTransaction, True),
        (psycopg.OperationalError, True),
        (psycopg.errors.UniqueViolation, False),
        (psycopg.errors.UndefinedTable, False),
        (psycopg.errors.InsufficientPrivilege, False),
        (psycopg.InterfaceError, False),
    ],
)
def test_what_may_pass(url: str, kind: type[psycopg.Error], may_pass: bool) -> None:
    with SqlStore(url) as store, pytest.raises(StoreError) as caught, store._transaction("try"):
        raise DBAPIError.instance("", None, kind("no"), psycopg.Error)
    assert isinstance(caught.value, StoreUnavailableError) is may_pass


def test_a_lock_of_others_may_pass(url: str) -> None:
    with psycopg.connect(url) as other, SqlStore(url) as store:
        with store._transaction("be impatient", writes=True) as connection:
            connection.exec_driver_sql("SET lock_timeout = 50")
        other.execute("SELECT * FROM job FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            store.append("a", [OPENED])
        assert len(list(store.events("a"))) == 1  # readers do not wait
        other.rollback()
        store.append("a", [OPENED])


def test_two_controllers_write_one_log_in_turns(url: str) -> None:
    def write() -> None:
        with SqlStore(url) as store:
            for _ in range(50):
                store.append("a", [OPENED, OPENED])

    writers = [threading.Thread(target=write) for _ in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    with SqlStore(url, read_only=True) as view:
        assert [event.seq for event in view.events("a")] == list(range(1, 302))


def test_who_waits_for_the_lock_of_a_takeover_is_fenced_by_it(url: str) -> None:
    with psycopg.connect(url) as other, SqlStore(url) as store:
        epoch = store.acquire("a", "one", 60.0)
        other.execute("UPDATE job SET epoch = epoch + 1, owner = 'two'")
        refused: list[StoreError] = []

        def write() -> None:
            try:
                store.append("a", [OPENED], epoch=epoch)
            except StoreError as error:
                refused.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.3)  # it waits by now; if it has not begun, the test passes as well
        other.commit()
        writer.join()
        assert isinstance(refused[0], FencedError)
        assert len(list(store.events("a"))) == 1


def test_a_view_never_writes(url: str) -> None:
    with SqlStore(url, read_only=True) as view:
        with pytest.raises(StoreError, match="reading only"):
            view.append("a", [OPENED])
        with (
            pytest.raises(StoreError, match="read-only transaction"),
            view._transaction("write") as connection,
        ):
            connection.exec_driver_sql("DELETE FROM event")


def test_an_empty_database_is_no_store_and_stays_empty() -> None:
    url = shared_server().new_database()
    with pytest.raises(StoreError, match="not a store of autoprune"):
        SqlStore(url, read_only=True)
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'")
        assert tables.fetchall() == []


def test_processes_that_open_a_new_store_at_once_all_can() -> None:
    url = shared_server().new_database()
    code = f"from autoprune.store.sql import SqlStore; SqlStore({url!r}).close()"
    openers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [each.wait(60) for each in openers] == [0, 0, 0]


@pytest.mark.parametrize("secret", ["tester:secret@", "tester@"])
def test_a_password_is_never_shown(url: str, secret: str) -> None:
    given = url.replace("tester@", secret) + ("?password=secret" if secret == "tester@" else "")
    with SqlStore(given) as store:
        assert "secret" not in store.name
        with pytest.raises(StoreError) as caught:
            store.create_job("a", {})
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="does not exist") as caught:
        SqlStore(given.replace("/test_", "/missing_"))
    assert "secret" not in str(caught.value)


def test_commits_are_durable_and_nothing_waits_for_ever(url: str) -> None:
    settings = ("synchronous_commit", "lock_timeout", "statement_timeout")
    with SqlStore(url) as store, store._transaction("look") as connection:
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in settings]
    assert found == ["on", "30s", "1min"]
