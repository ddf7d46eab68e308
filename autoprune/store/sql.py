"""The store in a database, through SQLAlchemy Core: one SQLite file by default.

    with SqlStore("runs/a/store.db") as store: ...                      # created if missing
    with SqlStore("runs/a/store.db", read_only=True) as view: ...       # never writes

A call of `append` is one transaction, so many entries cost one flush to disk. Reads are
short transactions of a page each: an iterator that is left half-way holds no lock and no
old snapshot. A store may be shared by threads; they take turns on its one connection.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from autoprune.contracts.store import Entry, Event, EventKind, JobRecord, Store
from autoprune.errors import RunError, StoreError, suggestion

SCHEMA_VERSION = 2  # 2: table snapshot
BUSY_S = 30.0  # how long to wait for another process's transaction
PAGE = 1000  # events per read transaction
_SNAPSHOTS = 2  # kept per job: the newest may turn out to be damaged

_metadata = sql.MetaData()
_meta = sql.Table(
    "meta",
    _metadata,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_job = sql.Table(
    "job",
    _metadata,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("spec", sql.Text, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
)
_event = sql.Table(
    "event",
    _metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("time", sql.Double, nullable=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("trial", sql.Integer),
    sql.Column("attempt", sql.Integer, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
_snapshot = sql.Table(
    "snapshot",
    _metadata,
    sql.Column("job", sql.ForeignKey("job.name"), primary_key=True),
    sql.Column("seq", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
)


class SqlStore(Store):
    """The log of jobs in a SQL database, durable when `append` returns.

    `target` is a path (a SQLite file) or a URL (`sqlite:///PATH`). With `read_only` nothing
    is ever written, and a missing file is a `RunError`. Raises `StoreError` for a file that
    is no store, or one that a newer autoprune wrote.
    """

    def __init__(self, target: str | Path, *, read_only: bool = False) -> None:
        self._name = str(target)
        self._read_only = read_only
        self._is_closed = False
        self._engine = _engine(target, read_only)
        try:
            self._prepare()
        except StoreError:
            self.close()
            raise

    def create_job(self, name: str, spec: Mapping[str, Any]) -> JobRecord:
        """Create a job with an empty log; raises `StoreError` if the name is taken."""
        text = _json(spec, f"the specification of job {name!r}")
        created = time.time()
        with self._transaction(f"create job {name!r}", writes=True) as connection:
            try:
                connection.execute(sql.insert(_job).values(name=name, spec=text, created=created))
            except IntegrityError as error:
                message = f"{self._name} already has a job {name!r}; resume it, or name the new job"
                raise StoreError(message) from error
        return JobRecord(name, json.loads(text), created)

    def jobs(self) -> Sequence[JobRecord]:
        """Return all jobs, oldest first."""
        with self._transaction("list the jobs") as connection:
            rows = connection.execute(sql.select(_job).order_by(_job.c.created, _job.c.name))
            return [JobRecord(row.name, json.loads(row.spec), row.created) for row in rows]

    def append(self, job: str, entries: Sequence[Entry]) -> Sequence[Event]:
        """Write entries in order, all or none, in one transaction; return them as events.

        Raises `StoreError` for an unknown job, an entry that is not plain JSON (NaN and
        infinity included), or a failed write; then nothing was written.
        """
        bodies = [_body(place, entry) for place, entry in enumerate(entries)]
        with self._transaction(f"append to job {job!r}", writes=True) as connection:
            self._lock(connection, job)
            newest = sql.select(sql.func.max(_event.c.seq)).where(_event.c.job == job)
            first = (connection.scalar(newest) or 0) + 1
            now = time.time()
            rows = [
                {
                    "job": job,
                    "seq": seq,
                    "time": now,
                    "kind": str(entry.kind),
                    "trial": entry.trial,
                    "attempt": entry.attempt,
                    "body": body,
                }
                for seq, (entry, body) in enumerate(zip(entries, bodies, strict=True), first)
            ]
            if rows:
                connection.execute(sql.insert(_event), rows)
        return [_event_of(row) for row in rows]

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """Iterate over the events with `seq > after`, in order, up to the newest.

        Events appended while the iteration runs may be included. Raises `StoreError` at
        once for an unknown job.
        """
        with self._transaction(f"read job {job!r}") as connection:
            self._lock(connection, job)
        return self._pages(job, after)

    def save_snapshot(self, job: str, seq: int, body: bytes) -> None:
        """Keep a snapshot in place of one at the same event, and the newest before it."""
        same = sql.and_(_snapshot.c.job == job, _snapshot.c.seq == seq)
        with self._transaction(f"save a snapshot of job {job!r}", writes=True) as connection:
            self._lock(connection, job)
            connection.execute(sql.delete(_snapshot).where(same))
            connection.execute(sql.insert(_snapshot).values(job=job, seq=seq, body=body))
            newest = sql.select(_snapshot.c.seq).where(_snapshot.c.job == job)
            kept = connection.scalars(newest.order_by(_snapshot.c.seq.desc()).limit(_SNAPSHOTS))
            is_old = sql.and_(_snapshot.c.job == job, _snapshot.c.seq < min(kept.all()))
            connection.execute(sql.delete(_snapshot).where(is_old))

    def snapshots(self, job: str) -> Sequence[tuple[int, bytes]]:
        """Return the kept snapshots of a job, newest first."""
        query = sql.select(_snapshot).where(_snapshot.c.job == job)
        with self._transaction(f"read the snapshots of job {job!r}") as connection:
            rows = connection.execute(query.order_by(_snapshot.c.seq.desc()))
            return [(row.seq, row.body) for row in rows]

    def close(self) -> None:
        """Release the store; allowed twice."""
        self._is_closed = True
        self._engine.dispose()

    def _pages(self, job: str, after: int) -> Iterator[Event]:
        query = sql.select(_event).where(_event.c.job == job).order_by(_event.c.seq).limit(PAGE)
        while True:
            with self._transaction(f"read job {job!r}") as connection:
                rows = connection.execute(query.where(_event.c.seq > after)).mappings().all()
            for row in rows:
                yield _event_of(row)
            if len(rows) < PAGE:
                return
            after = rows[-1]["seq"]

    def _lock(self, connection: sql.Connection, job: str) -> None:
        """Raise unless `job` exists; in a writing transaction, keep other writers of it out."""
        query = sql.select(_job.c.name)
        # SQLite knows no row locks and ignores this: its writers hold the whole database.
        locked = query.with_for_update() if connection.get_execution_options()["writes"] else query
        if connection.scalar(locked.where(_job.c.name == job)) is None:
            names = connection.scalars(query).all()
            raise StoreError(f"{self._name} has no job {job!r}; {suggestion(job, names)}")

    def _prepare(self) -> None:
        """Create the tables where there are none, and check the schema's version."""
        with self._transaction("open the store") as connection:
            version = _version(connection)
        if version is None and self._read_only:
            raise StoreError(f"{self._name} is not a store of autoprune: it has no log")
        version = version or 0
        if version < SCHEMA_VERSION and not self._read_only:
            with self._transaction("create the tables", writes=True) as connection:
                version = _version(connection) or 0  # another process may have been faster
                if version < SCHEMA_VERSION:  # version 1 lacks a table, no more
                    version = SCHEMA_VERSION
                    _metadata.create_all(connection)
                    connection.execute(sql.delete(_meta).where(_meta.c.key == "schema_version"))
                    row = {"key": "schema_version", "value": str(version)}
                    connection.execute(sql.insert(_meta), row)
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._name} was written by a newer autoprune (schema {version}; this one "
                f"knows {SCHEMA_VERSION}): upgrade autoprune to open it"
            )

    @contextmanager
    def _transaction(self, what: str, *, writes: bool = False) -> Iterator[sql.Connection]:
        """Run one transaction; database errors come out as `StoreError` with their cause."""
        if self._is_closed:
            raise StoreError(f"cannot {what}: the store {self._name} is closed")
        if writes and self._read_only:
            raise StoreError(f"cannot {what}: {self._name} is open for reading only")
        try:
            with (
                self._engine.connect().execution_options(writes=writes) as connection,
                connection.begin(),
            ):
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"cannot {what} in {self._name}: {cause}") from error


def _engine(target: str | Path, read_only: bool) -> sql.Engine:
    """Return an engine for a path or a URL; connects to nothing yet."""
    if "://" not in str(target):
        return _sqlite_engine(Path(target), read_only)
    try:
        url = sql.make_url(str(target))
    except ArgumentError as error:
        raise StoreError(f"not a database URL: {error}") from error
    if url.get_backend_name() != "sqlite" or not url.database:
        shown = url.render_as_string(hide_password=True)
        raise StoreError(f"a store is a path or sqlite:///PATH, given: {shown}")
    return _sqlite_engine(Path(url.database), read_only)


def _sqlite_engine(path: Path, read_only: bool) -> sql.Engine:
    """Return an engine with one connection to a SQLite file; all that is SQLite's is here."""
    if read_only and not path.is_file():
        raise RunError(f"there is no run at {path}: the file does not exist")
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        # isolation_level=None: the driver must not begin transactions on its own.
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
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


def _version(connection: sql.Connection) -> int | None:
    """Return the version of the schema; None where there are no tables yet."""
    if not sql.inspect(connection).has_table(_meta.name):
        return None
    query = sql.select(_meta.c.value).where(_meta.c.key == "schema_version")
    value = connection.scalar(query)
    return None if value is None else int(value)


def _json(value: Mapping[str, Any], what: str) -> str:
    """Return `value` as JSON text; raises `StoreError` naming `what`."""
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{what} is not plain JSON: {error}; only finite numbers, text, booleans, null, "
            "lists and objects can be stored (turn NumPy values into int or float)"
        ) from error


def _body(place: int, entry: Entry) -> str:
    """Return the body of the entry at `place` as text; raises `StoreError` for a bad entry."""
    if entry.kind not in tuple(EventKind):
        kinds = suggestion(str(entry.kind), map(str, EventKind))
        raise StoreError(f"entry {place} is of an unknown kind {entry.kind!r}; {kinds}")
    for name, number in (("trial", entry.trial), ("attempt", entry.attempt)):
        if number is not None and (not isinstance(number, int) or not 0 <= number < 2**31):
            raise StoreError(f"entry {place}: {name} must be a whole number, given: {number!r}")
    return _json(entry.body, f"the body of entry {place} ({entry.kind})")


def _event_of(row: Mapping[Any, Any]) -> Event:
    """Return the event in a row of the table; raises `StoreError` where it makes no sense."""
    try:
        kind, body = EventKind(row["kind"]), json.loads(row["body"])
    except ValueError as error:
        raise StoreError(
            f"event {row['seq']} of job {row['job']!r} is unreadable: {error}"
        ) from error
    return Event(row["seq"], row["time"], kind, row["trial"], row["attempt"], body)
