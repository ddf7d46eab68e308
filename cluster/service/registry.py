"""What was submitted: one row for each job of the service, beside the logs.

    with Registry("sqlite:///runs/service.sqlite") as registry:
        job, is_new = registry.submit("vision", "digits", "request-1", spec, digest)

A row says what clients want of a job; what has become of it stands in its log. Rows outlive
the server: a new one takes up what was submitted to the last.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from autoprune.errors import StoreError
from autoprune.store.databases import backend_of

_VERSION = 1
_metadata = sql.MetaData()
_version = sql.Table(
    "service_version", _metadata, sql.Column("version", sql.Integer, primary_key=True)
)
_job = sql.Table(
    "service_job",
    _metadata,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("tenant", sql.Text, nullable=False),
    sql.Column("name", sql.Text, nullable=False),
    sql.Column("request_id", sql.Text, nullable=False),
    sql.Column("digest", sql.Text, nullable=False),
    sql.Column("spec", sql.Text, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("wanted", sql.Text, nullable=False),
    sql.Column("since", sql.Integer, nullable=False),
    sql.Column("failure", sql.Text, nullable=False),
    sql.UniqueConstraint("tenant", "name", name="service_job_name"),
    sql.UniqueConstraint("tenant", "request_id", name="service_job_request"),
)


class Wanted(StrEnum):
    """What clients want of a job: that it runs, finishes what it began, stops, or goes."""

    RUN = "run"
    DRAIN = "drain"
    STOP = "stop"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted job. `id` names its directory and its log; `spec` is the job as JSON.

    `digest` is that of what the client sent, `created` a Unix time. What the log says up to
    the event `since` is of earlier sessions; `failure` is why the newest one could not begin.
    """

    id: str
    tenant: str
    name: str
    request_id: str
    digest: str
    spec: str
    created: float
    wanted: Wanted = Wanted.RUN
    since: int = 0
    failure: str = ""


class Registry:
    """The submissions in a database, a SQLite file or PostgreSQL; safe to share by threads.

    It answers from memory, so one server at a time works with a database. Raises `StoreError`
    for a database that a newer autoprune wrote or that cannot be used.
    """

    def __init__(self, target: str | Path) -> None:
        self._backend = backend_of(target)
        self.name = self._backend.name
        self._by_id: dict[str, Submission] = {}
        self._by_name: dict[tuple[str, str], Submission] = {}
        with self._backend.transaction("open the registry", writes=True) as connection:
            if self._backend.alone is not None:
                connection.exec_driver_sql(self._backend.alone)
            _metadata.create_all(connection)
            versions = connection.scalars(sql.select(_version.c.version)).all()
            if not versions:
                connection.execute(sql.insert(_version), {"version": _VERSION})
            elif max(versions) != _VERSION:
                raise StoreError(
                    f"{self.name} has a registry of version {max(versions)}, and this autoprune "
                    f"knows {_VERSION}: upgrade autoprune"
                )
            for row in connection.execute(sql.select(_job)):
                self._keep(_submission(row))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, tenant: str, name: str, request_id: str, spec: str, digest: str
    ) -> tuple[Submission, bool]:
        """Return the new submission and True, or the one that is there and False.

        It is there if the tenant has one of that name or that request_id; whether it is the
        same one, its `digest` and `request_id` tell.
        """
        new = Submission(
            uuid.uuid4().hex, tenant, name, request_id, digest, spec, created=self._moment()
        )
        with self._backend.transaction("submit a job", writes=True) as connection:
            try:
                with connection.begin_nested():
                    connection.execute(sql.insert(_job), _row(new))
            except IntegrityError:
                same = sql.or_(_job.c.request_id == request_id, _job.c.name == name)
                # A request that was made before is told so, whatever else has its name.
                order = (_job.c.request_id != request_id).asc()
                query = sql.select(_job).where(_job.c.tenant == tenant, same).order_by(order)
                return _submission(connection.execute(query).first()), False
        return self._keep(new), True

    def find(self, tenant: str, name: str) -> Submission | None:
        """Return the job of a tenant, None if there is none of that name."""
        return self._by_name.get((tenant, name))

    def get(self, job: str) -> Submission | None:
        """Return the job with the id `job`, None if it is gone."""
        return self._by_id.get(job)

    def all(self, tenant: str | None = None) -> Sequence[Submission]:
        """Return all jobs, of one tenant where named, the newest first."""
        found = [x for x in self._by_id.values() if tenant is None or x.tenant == tenant]
        return sorted(found, key=lambda x: (-x.created, x.id))

    def change(self, job: str, **values: Any) -> Submission:
        """Change columns of the job with the id `job` and return it; `StoreError` if it is gone."""
        with self._backend.transaction("change a job", writes=True) as connection:
            connection.execute(sql.update(_job).where(_job.c.id == job).values(**values))
            row = connection.execute(sql.select(_job).where(_job.c.id == job)).first()
        if row is None:
            raise StoreError(f"{self.name} has no job with the id {job}")
        return self._keep(_submission(row))

    def delete(self, job: str) -> None:
        """Forget a job; one that is gone already is no error."""
        with self._backend.transaction("delete a job", writes=True) as connection:
            connection.execute(sql.delete(_job).where(_job.c.id == job))
        gone = self._by_id.pop(job, None)
        if gone is not None:
            self._by_name.pop((gone.tenant, gone.name), None)

    def close(self) -> None:
        """Release the database; allowed twice."""
        self._backend.engine.dispose()

    def _moment(self) -> float:
        """Return the time in whole microseconds, later than that of every job."""
        last = max((each.created for each in self._by_id.values()), default=0.0)
        return max(int(time.time() * 1e6), round(last * 1e6) + 1) / 1e6

    def _keep(self, job: Submission) -> Submission:
        self._by_id[job.id] = self._by_name[job.tenant, job.name] = job
        return job


def _row(job: Submission) -> dict[str, Any]:
    return {column.name: getattr(job, column.name) for column in _job.c}


def _submission(row: Any) -> Submission:
    values = dict(row._mapping)
    return Submission(**{**values, "wanted": Wanted(values["wanted"])})
