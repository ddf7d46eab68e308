"""Migrations lead to the schema that the code knows, and other versions are told in words."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import autoprune.store
from autoprune.errors import StoreError
from autoprune.store import schema
from autoprune.store.sql import SqlStore
from tests.postgres import shared_server

SCRIPTS = Path(autoprune.store.__file__).parent / "migrations"

Target = Callable[[Path], str | Path]


def sqlite_file(directory: Path) -> str | Path:
    return directory / "store.db"


def postgres_url(directory: Path) -> str | Path:
    return shared_server().new_database()


@pytest.mark.parametrize("target", [sqlite_file, postgres_url])
def test_the_migrations_make_the_schema_that_the_code_knows(tmp_path: Path, target: Target) -> None:
    options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
    with SqlStore(target(tmp_path)) as store, store._transaction("compare") as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.HEAD


def test_the_code_knows_the_newest_migration_and_names_grow() -> None:
    scripts = ScriptDirectory(str(SCRIPTS))
    names = [each.revision for each in scripts.walk_revisions()]
    assert scripts.get_current_head() == schema.HEAD
    assert names == sorted(names, reverse=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a store with one job."""
    path = tmp_path / "store.db"
    with SqlStore(path) as store:
        store.create_job("a", {})
    return path


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    run_sql(path, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer autoprune \(schema 9999; this one knows 0001\)"):
        SqlStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_older_schema_cannot_be_read_and_says_what_to_do(path: Path) -> None:
    run_sql(path, f"UPDATE {schema.VERSION_TABLE} SET version_num = '0000'")
    with pytest.raises(StoreError, match=r"older autoprune \(schema 0000.*--resume"):
        SqlStore(path, read_only=True)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_from_before_the_first_release_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "store.db"
    tables = ("CREATE TABLE meta (key TEXT, value TEXT)", "CREATE TABLE event (job TEXT)")
    run_sql(path, "PRAGMA journal_mode=WAL", *tables)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"before its first release.*new directory"):
        SqlStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run_sql(path, "CREATE TABLE trial (x)")  # of somebody else
    with pytest.raises(StoreError, match="trial already exists"):
        SqlStore(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("trial",)]


def test_a_store_that_is_up_to_date_opens_without_alembic(path: Path) -> None:
    code = (
        "import sys; from autoprune.store.sql import SqlStore; SqlStore(sys.argv[1]).close(); "
        "SqlStore(sys.argv[1], read_only=True).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
