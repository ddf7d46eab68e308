"""The version of a store's schema, and the way to the newest one.

A store holds the name of its last migration in a table. Migrations are files of
`store/migrations`, run by Alembic, which is imported for that only.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql

from autoprune.errors import StoreError
from autoprune.store.schema import HEAD, VERSION_TABLE

_SCRIPTS = Path(__file__).parent / "migrations"


def version_of(connection: sql.Connection, name: str) -> str | None:
    """Return the name of the newest migration that a store has seen; None for no store.

    Raises `StoreError` for a store from before the first release.
    """
    found = sql.inspect(connection)
    if found.has_table(VERSION_TABLE):
        table = sql.table(VERSION_TABLE, sql.column("version_num"))
        version: str | None = connection.scalar(sql.select(table.c.version_num))
        return version
    if found.has_table("meta") and found.has_table("event"):
        raise StoreError(
            f"{name} was written by an autoprune from before its first release and cannot be "
            "read any more: search again in a new directory"
        )
    return None


def require_readable(version: str | None, name: str) -> None:
    """Raise `StoreError` unless a store at `version` can be read by this autoprune."""
    if version is None:
        raise StoreError(f"{name} is not a store of autoprune: it has no log")
    if version > HEAD:
        raise StoreError(
            f"{name} was written by a newer autoprune (schema {version}; this one knows {HEAD}): "
            "upgrade autoprune to open it"
        )
    if version < HEAD:
        raise StoreError(
            f"{name} was written by an older autoprune (schema {version}; this one reads {HEAD}): "
            "go on with its search (--resume) to upgrade it, or read it with that autoprune"
        )


def upgrade(connection: sql.Connection, name: str) -> None:
    """Bring a store to the newest schema, in the transaction of `connection`.

    The caller keeps other processes out; one of them may have been faster.
    """
    version = version_of(connection, name)
    if version is None or version < HEAD:
        from alembic.command import upgrade as run
        from alembic.config import Config

        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        run(config, HEAD)
    else:
        require_readable(version, name)
