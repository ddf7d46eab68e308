"""The store in a database, through SQLAlchemy Core: one SQLite file by default.

    with SqlStore("runs/a/store.sqlite") as store: ...                  # created if missing
    with SqlStore("runs/a/store.sqlite", read_only=True) as view: ...   # never writes
    with SqlStore("postgresql://user@host/database") as store: ...      # of many jobs

A call of `append` is one transaction, so many entries cost one flush to disk. Reads are
short transactions of a page each: an iterator that is left half-way holds no lock and no
old snapshot. A store may be shared by threads; they take turns on its one connection. A
connection that is lost is made anew by the next call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from autoprune.contracts.store import (
    Entry,
    Event,
    EventKind,
    JobRecord,
    Lease,
    Origin,
    Outline,
    Store,
)
from autoprune.errors import (
    FencedError,
    JobHeldError,
    StoreError,
    suggestion,
)
from autoprune.store import schema
from autoprune.store.databases import backend_of
from autoprune.store.derived import Row, derive
from autoprune.store.migration import require_readable, upgrade, version_of
from autoprune.store.rows import body_text, event_in, job_in, json_text, outlines_in

PAGE = 1000  # events per query
_SNAPSHOTS = 2  # kept per job: the newest may turn out to be damaged
# Built once: an append takes longer to word its statements than to run them.
_NEWEST = sql.select(sql.func.max(schema.event.c.seq)).where(
    schema.event.c.job == sql.bindparam("of")
)
_INSERT = sql.insert(schema.event)


class SqlStore(Store):
    """The log of jobs in a SQL database, durable when `append` returns.

    `target` is a path (a SQLite file) or a URL (`sqlite:///PATH`, `postgresql://…`). With
    `read_only` nothing is ever written, and a missing file is a `RunError`; otherwise the
    tables are created, or brought up to date. Raises `StoreError` for what is no store, or
    one that a newer autoprune wrote.
    """

    def __init__(self, target: str | Path, *, read_only: bool = False) -> None:
        self._backend = backend_of(target, read_only=read_only)
        self.name = self._backend.name
        self._read_only = read_only
        self._is_closed = False
        table = schema.job
        remaining = (table.c.lease_until - self._backend.now).label("remaining")
        self._lease_query = sql.select(table.c.epoch, table.c.owner, remaining).where(
            table.c.name == sql.bindparam("of")
        )
        # SQLite knows no row locks and ignores this: its writers hold the whole database.
        self._lock_query = self._lease_query.with_for_update()
        try:
            self._prepare()
        except StoreError:
            self.close()
            raise

    def create_job(self, name: str, spec: Mapping[str, Any]) -> JobRecord:
        """Create a job with an empty log; raises `StoreError` if the name is taken."""
        text = json_text(spec, f"the specification of job {name!r}")
        created = time.time()
        row = {"name": name, "spec": text, "created": created, "epoch": 0}
        with self._transaction(f"create job {name!r}", writes=True) as connection:
            try:
                connection.execute(sql.insert(schema.job), row)
            except IntegrityError as error:
                message = f"{self.name} already has a job {name!r}; resume it, or name the new job"
                raise StoreError(message) from error
        return JobRecord(name, json.loads(text), created)

    def delete_job(self, name: str) -> None:
        """Remove a job with all that belongs to it; one that is gone already is no error."""
        with self._transaction(f"delete job {name!r}", writes=True) as connection:
            for table in (schema.artifact, schema.trial, schema.snapshot, schema.event):
                connection.execute(sql.delete(table).where(table.c.job == name))
            connection.execute(sql.delete(schema.job).where(schema.job.c.name == name))

    def jobs(self) -> Sequence[JobRecord]:
        """Return all jobs, oldest first."""
        query = sql.select(schema.job).order_by(schema.job.c.created, schema.job.c.name)
        with self._transaction("list the jobs") as connection:
            return [job_in(row) for row in connection.execute(query)]

    def find(self, name: str) -> JobRecord | None:
        """Return the job of that name, None if there is none."""
        query = sql.select(schema.job).where(schema.job.c.name == name)
        with self._transaction(f"look for job {name!r}") as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else job_in(row)

    def acquire(
        self, job: str, owner: str, lease_s: float, *, instead_of: int | None = None
    ) -> int:
        """Take a job over and return the new epoch; `JobHeldError` while another holds it."""
        with self._transaction(f"acquire job {job!r}", writes=True) as connection:
            held = self._locked(connection, job)
            is_free = held is None or held.remaining_s <= 0 or held.owner == owner
            if held is not None and not is_free and held.epoch != instead_of:
                raise JobHeldError(
                    f"job {job!r} is driven by {held.owner} (epoch {held.epoch}), whose lease "
                    f"runs for another {held.remaining_s:.1f} s: stop that one, or wait"
                )
            epoch = (held.epoch if held is not None else 0) + 1
            self._let(connection, job, lease_s, epoch=epoch, owner=owner)
        return epoch

    def renew(self, job: str, epoch: int, lease_s: float) -> None:
        """Let the lease run `lease_s` seconds from now; raises `FencedError`."""
        with self._transaction(f"renew the lease of job {job!r}", writes=True) as connection:
            self._hold(connection, job, epoch)
            self._let(connection, job, lease_s)

    def release(self, job: str, epoch: int) -> None:
        """End the lease now; raises `FencedError`."""
        with self._transaction(f"release job {job!r}", writes=True) as connection:
            self._hold(connection, job, epoch)
            self._let(connection, job, 0.0)

    def lease(self, job: str) -> Lease | None:
        """Return the newest lease of a job, run out or not; None before the first."""
        with self._transaction(f"read the lease of job {job!r}") as connection:
            return self._locked(connection, job)

    def append(
        self, job: str, entries: Sequence[Entry], *, epoch: int = 0, after: int | None = None
    ) -> Sequence[Event]:
        """Write entries in order, all or none, in one transaction; return them as events.

        Raises `StoreError` for an unknown job, an entry that is not plain JSON (NaN and
        infinity included) or cannot follow, or a failed write; then nothing was written.
        """
        bodies = [body_text(place, entry) for place, entry in enumerate(entries)]
        with self._transaction(f"append to job {job!r}", writes=True) as connection:
            self._hold(connection, job, epoch)
            last = connection.scalar(_NEWEST, {"of": job}) or 0
            if after is not None and last != after:
                raise StoreError(
                    f"cannot append to job {job!r} after event {after}: its newest event is "
                    f"{last}; read the events in between"
                )
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
                for seq, (entry, body) in enumerate(zip(entries, bodies, strict=True), last + 1)
            ]
            events = [event_in(row) for row in rows]
            if rows:
                connection.execute(_INSERT, rows)
                derive(connection, job, events)
        return events

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """Iterate over the events with `seq > after`, in order, up to the newest.

        Events appended while the iteration runs may be included. Raises `StoreError` at
        once for an unknown job.
        """
        self._require(job)
        pages = self._pages(job, after, list(schema.event.c))
        return (event_in(row._mapping) for page in pages for row in page)

    def outline(
        self, job: str, after: int = 0, *, bodies: Collection[EventKind]
    ) -> Iterator[Outline]:
        """Iterate as `events` does, without the bodies of other kinds than `bodies`."""
        self._require(job)
        table = schema.event.c
        body = sql.case((table.kind.in_(map(str, bodies)), table.body))
        columns = [table.seq, table.time, table.kind, table.trial, table.attempt, body]
        pages = self._pages(job, after, columns)
        return (each for page in pages for each in outlines_in(job, page, self._origins(job, page)))

    def events_at(self, job: str, seqs: Sequence[int]) -> Sequence[Event]:
        """Return the events at `seqs`, in that order; raises `StoreError` where there is none."""
        self._require(job)
        table, found = schema.event, dict[int, Event]()
        with self._transaction(f"read events of job {job!r}") as connection:
            for start in range(0, len(seqs), PAGE):
                is_named = table.c.seq.in_(seqs[start : start + PAGE])
                query = sql.select(table).where(table.c.job == job, is_named)
                events = map(event_in, connection.execute(query).mappings())
                found |= {event.seq: event for event in events}
        if missing := set(seqs) - found.keys():
            raise StoreError(f"job {job!r} has no event {min(missing)}")
        return [found[seq] for seq in seqs]

    def save_snapshot(self, job: str, seq: int, body: bytes, *, epoch: int = 0) -> None:
        """Keep a snapshot in place of one at the same event, and the newest before it."""
        table = schema.snapshot
        same = sql.and_(table.c.job == job, table.c.seq == seq)
        newest = sql.select(table.c.seq).where(table.c.job == job).order_by(table.c.seq.desc())
        with self._transaction(f"save a snapshot of job {job!r}", writes=True) as connection:
            self._hold(connection, job, epoch)
            connection.execute(sql.delete(table).where(same))
            connection.execute(sql.insert(table).values(job=job, seq=seq, body=body))
            kept = connection.scalars(newest.limit(_SNAPSHOTS)).all()
            is_old = sql.and_(table.c.job == job, table.c.seq < min(kept))
            connection.execute(sql.delete(table).where(is_old))

    def snapshots(self, job: str) -> Sequence[tuple[int, bytes]]:
        """Return the kept snapshots of a job, newest first."""
        table = schema.snapshot
        query = sql.select(table).where(table.c.job == job).order_by(table.c.seq.desc())
        with self._transaction(f"read the snapshots of job {job!r}") as connection:
            return [(row.seq, row.body) for row in connection.execute(query)]

    def trials(self, job: str) -> Sequence[Row]:
        """Return the rows of the derived trial table, by number."""
        return self._rows(schema.trial, job, schema.trial.c.number)

    def artifacts(self, job: str) -> Sequence[Row]:
        """Return the rows of the derived table of files in use, by name."""
        return self._rows(schema.artifact, job, schema.artifact.c.name)

    def damage(self) -> str | None:
        """Return what the database itself finds wrong with its file; None if nothing.

        PostgreSQL has no such question: its server checks what it reads.
        """
        if self._backend.check is None:
            return None
        with self._transaction("check the file") as connection:
            found = connection.exec_driver_sql(self._backend.check).scalars().all()
        return None if found == ["ok"] else "; ".join(found)

    def close(self) -> None:
        """Release the store; allowed twice."""
        self._is_closed = True
        self._backend.engine.dispose()

    def _require(self, job: str) -> None:
        """Raise `StoreError` where there is no such job."""
        with self._transaction(f"read job {job!r}") as connection:
            self._locked(connection, job)

    def _pages(
        self, job: str, after: int, columns: Sequence[sql.ColumnElement[Any]]
    ) -> Iterator[Sequence[sql.Row[Any]]]:
        """Yield the events with `seq > after` in pages; seq must be among `columns`."""
        table = schema.event.c
        query = sql.select(*columns).where(table.job == job).order_by(table.seq).limit(PAGE)
        while True:
            with self._transaction(f"read job {job!r}") as connection:
                rows = connection.execute(query.where(table.seq > after)).all()
            yield rows
            if len(rows) < PAGE:
                return
            after = rows[-1].seq

    def _origins(self, job: str, rows: Iterable[Sequence[Any]]) -> Mapping[int, Origin]:
        """Return where the trials that events ask come from, by number.

        Out of the derived table: to read it in the body of ASKED takes as long as all the rest.
        """
        asked = [trial for _, _, kind, trial, *_ in rows if kind == EventKind.ASKED]
        if not asked:
            return {}
        table = schema.trial.c
        query = sql.select(table.number, table.searcher, table.rung, table.parent).where(
            table.job == job, table.number.between(asked[0], asked[-1])
        )
        with self._transaction(f"read the trials of job {job!r}") as connection:
            found = connection.execute(query).all()
        return {number: Origin(searcher, rung, parent) for number, searcher, rung, parent in found}

    def _rows(self, table: sql.Table, job: str, order: sql.ColumnElement[Any]) -> Sequence[Row]:
        query = sql.select(*list(table.c)[1:]).where(table.c.job == job).order_by(order)
        with self._transaction(f"read the {table.name}s of job {job!r}") as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _locked(self, connection: sql.Connection, job: str) -> Lease | None:
        """Return the lease of `job`; in a writing transaction, keep other writers of it out.

        Raises `StoreError` where there is no such job.
        """
        query = self._lease_query
        if connection.get_execution_options()["writes"]:
            query = self._lock_query
        row = connection.execute(query, {"of": job}).one_or_none()
        if row is None:
            names = connection.scalars(sql.select(schema.job.c.name)).all()
            raise StoreError(f"{self.name} has no job {job!r}; {suggestion(job, names)}")
        return None if row.owner is None else Lease(row.epoch, row.owner, row.remaining)

    def _hold(self, connection: sql.Connection, job: str, epoch: int) -> None:
        """Keep other writers of `job` out; raises `FencedError` where `epoch` is not its."""
        held = self._locked(connection, job)
        current = 0 if held is None else held.epoch
        if epoch != current:
            owner = "nobody" if held is None else held.owner
            raise FencedError(
                f"job {job!r} is in epoch {current} (of {owner}), not {epoch}: nothing was "
                "written; this controller must stop"
            )

    def _let(self, connection: sql.Connection, job: str, lease_s: float, **values: Any) -> None:
        until = self._backend.now + lease_s
        chosen = sql.update(schema.job).where(schema.job.c.name == job)
        connection.execute(chosen.values(lease_until=until, **values))

    def _prepare(self) -> None:
        """Check the schema's version; create or upgrade the tables where that is allowed."""
        with self._transaction("open the store") as connection:
            version = version_of(connection, self.name)
        if version != schema.HEAD and not self._read_only:
            with self._transaction("upgrade the tables", writes=True) as connection:
                if self._backend.alone is not None:
                    connection.exec_driver_sql(self._backend.alone)
                upgrade(connection, self.name)
        else:
            require_readable(version, self.name)

    @contextmanager
    def _transaction(self, what: str, *, writes: bool = False) -> Iterator[sql.Connection]:
        """Run one transaction; database errors come out as `StoreError` with their cause."""
        if self._is_closed:
            raise StoreError(f"cannot {what}: the store {self.name} is closed")
        if writes and self._read_only:
            raise StoreError(f"cannot {what}: {self.name} is open for reading only")
        with self._backend.transaction(what, writes=writes) as connection:
            yield connection
