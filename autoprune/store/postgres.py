"""A store in a PostgreSQL database (15 or newer), through psycopg 3."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql

from autoprune.errors import StoreError
from autoprune.store.backend import WAIT_S, Backend

DRIVER = "postgresql+psycopg"

_NOW: sql.ColumnElement[float] = sql.literal_column(
    "CAST(extract(epoch FROM clock_timestamp()) AS double precision)", sql.Double
)
# So that no call waits for ever on a server that has gone; a URL may say otherwise.
_LIMITS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "autoprune",
}
_SECRETS = ("password", "sslpassword")
# Any number that no other user of the database takes.
_ALONE = "SELECT pg_advisory_xact_lock(7271834021)"
# No room, no memory or too many connections (53); shut down or cancelled (57); I/O (58); read
# only for now (25006); lost to another transaction or its lock (40, 55P03).
_MAY_PASS = ("08", "53", "57", "58", "25006", "40", "55P03")


def postgres_backend(url: sql.URL, *, read_only: bool) -> Backend:
    """Return the database at `url` as a backend; connects to nothing yet.

    What the URL does not say, the password above all, is taken from libpq's own places.
    Raises `StoreError` where the driver is missing.
    """
    full = url.set(drivername=DRIVER, query={**_LIMITS, **url.query})
    try:
        # A lost connection is noticed before a transaction begins, and made anew.
        engine = sql.create_engine(full, pool_size=1, max_overflow=0, pool_pre_ping=True)
    except ImportError as error:
        raise StoreError(
            "a store in PostgreSQL needs psycopg: pip install 'autoprune[postgres]'"
        ) from error
    wait_ms = int(1000 * WAIT_S)
    settings = {
        # Who has waited for a job's lock must see the events that were written meanwhile.
        "default_transaction_isolation": "read committed",
        "lock_timeout": wait_ms,
        "statement_timeout": 2 * wait_ms,
        "idle_in_transaction_session_timeout": 2 * wait_ms,
        "synchronous_commit": "on",
        "default_transaction_read_only": "on" if read_only else "off",
    }

    def configure(connection: Any, _: object) -> None:
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")
        connection.commit()

    sql.event.listen(engine, "connect", configure)
    shown = _public(url).render_as_string(hide_password=True)
    return Backend(shown, engine, _NOW, _may_pass, alone=_ALONE)


def _public(url: sql.URL) -> sql.URL:
    """Return `url` without its secrets."""
    bare = sql.URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, url.query
    )
    return bare.difference_update_query(_SECRETS)


def _may_pass(error: BaseException) -> bool:
    from psycopg import OperationalError

    state: str | None = getattr(error, "sqlstate", None)
    if state is None:  # the connection itself: it could not be made, or is lost
        return isinstance(error, OperationalError)
    return state.startswith(_MAY_PASS)
