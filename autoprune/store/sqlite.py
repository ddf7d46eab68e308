"""A store in one SQLite file: durable commits, readers that do not block the writer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sql

from autoprune.errors import RunError, StoreError
from autoprune.store.backend import WAIT_S, Backend
from autoprune.store.filesystem import network_filesystem

_NOW: sql.ColumnElement[float] = sql.literal_column(
    "(julianday('now') - 2440587.5) * 86400.0", sql.Double
)
_MAY_PASS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def sqlite_backend(path: Path, *, read_only: bool) -> Backend:
    """Return the SQLite file `path` as a backend; connects to nothing yet.

    Raises `RunError` where there is no file to read, and `StoreError` for writing on a file
    system of the network, whose locks and shared memory SQLite cannot rely on.
    """
    if read_only and not path.is_file():
        raise RunError(f"there is no run at {path}: the file does not exist")
    kind = None if read_only else network_filesystem(path)
    if kind is not None:
        raise StoreError(
            f"{path} lies on a network file system ({kind}), where SQLite can lose a log: put "
            "the run into a local directory, or its store into PostgreSQL (postgresql://…)"
        )
    return Backend(
        str(path), _engine(path, read_only), _NOW, _may_pass, check="PRAGMA integrity_check"
    )


def _engine(path: Path, read_only: bool) -> sql.Engine:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        # isolation_level=None: the driver must not begin transactions on its own.
        connection = sqlite3.connect(
            uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False
        )
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        return connection

    def begin(connection: sql.Connection) -> None:
        # A deferred transaction that reads before it writes fails at once, without
        # waiting, when another process wrote in between; IMMEDIATE waits its turn.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    engine = sql.create_engine(
        "sqlite://", creator=connect, poolclass=sql.QueuePool, pool_size=1, max_overflow=0
    )
    sql.event.listen(engine, "begin", begin)
    return engine


def _may_pass(error: BaseException) -> bool:
    # The low byte is the kind of an error, the others its details.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _MAY_PASS
