"""Which database a path or a URL means."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError

from autoprune.errors import StoreError
from autoprune.store.backend import Backend
from autoprune.store.postgres import DRIVER, postgres_backend
from autoprune.store.sqlite import sqlite_backend


def backend_of(target: str | Path, *, read_only: bool = False) -> Backend:
    """Return the database behind a path or a URL; connects to nothing yet."""
    if "://" not in str(target):
        return sqlite_backend(Path(target), read_only=read_only)
    try:
        url = sql.make_url(str(target))
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            "not a database URL; allowed: a path, sqlite:///PATH, postgresql://USER@HOST/DATABASE"
        ) from error
    if url.drivername == "sqlite" and url.database:
        return sqlite_backend(Path(url.database), read_only=read_only)
    if url.drivername in ("postgresql", DRIVER):
        return postgres_backend(url, read_only=read_only)
    raise StoreError(
        f"a store is a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE, given a URL of "
        f"{url.drivername!r}"
    )
