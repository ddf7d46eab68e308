"""Where the store of a run is: in the run's directory, or in a database that it names.

    with place_store(directory, None, "digits") as store: ...              # store.sqlite
    with place_store(directory, "postgresql://host/db", "digits") as store: ...  # store.json
    with open_store(directory, read_only=True) as store:
        record = record_of(directory, store)

`store.json` is `{"url", "job"}`, without a password: one that is given in a URL serves in this
process and is written nowhere. Other processes find it where libpq looks, in `PGPASSWORD` or
`~/.pgpass`.
"""

from __future__ import annotations

import json
from pathlib import Path

from autoprune.artifacts import write_whole
from autoprune.contracts.store import JobRecord
from autoprune.errors import RunError, StoreError
from autoprune.store.sql import SqlStore

STORE_NAME = "store.sqlite"
POINTER_NAME = "store.json"

_given: dict[str, str] = {}  # URL without its password → as it was given


def has_store(directory: Path) -> bool:
    """Say whether `directory` holds a store, or says where it is."""
    return any((directory / name).is_file() for name in (STORE_NAME, POINTER_NAME))


def place_store(directory: Path, url: str | None, job: str) -> SqlStore:
    """Make a store for a new run of `job` in `directory`, or in the database at `url`.

    Raises `RunError` where `directory` holds one already, and `StoreError` where the
    database has a job of that name: then nothing is written.
    """
    if has_store(directory):
        raise RunError(f"{directory} holds a run already; name another directory")
    if url is None:
        return SqlStore(directory / STORE_NAME)
    if not url.startswith("postgresql"):
        raise StoreError("a run's store can be elsewhere only as postgresql://USER@HOST/DATABASE")
    store = SqlStore(url)
    try:
        if store.find(job) is not None:
            raise StoreError(f"{store.name} already has a job {job!r}; name the new job")
        pointer = json.dumps({"url": store.name, "job": job})
        write_whole(directory / POINTER_NAME, pointer.encode())
    except BaseException:
        store.close()
        raise
    _given[store.name] = url
    return store


def open_store(directory: Path, *, read_only: bool = False) -> SqlStore:
    """Open the store of a run; raises `RunError` if `directory` holds none."""
    if (directory / POINTER_NAME).is_file():
        url = _pointer(directory)["url"]
        return SqlStore(_given.get(url, url), read_only=read_only)
    if not has_store(directory):
        raise RunError(
            f"{directory} is no run: it has no {STORE_NAME} and no {POINTER_NAME}; name a run "
            "directory"
        )
    return SqlStore(directory / STORE_NAME, read_only=read_only)


def record_of(directory: Path, store: SqlStore) -> JobRecord:
    """Return the job of a run whose store is open; raises `RunError` if it is not there."""
    if (directory / POINTER_NAME).is_file():
        record = store.find(_pointer(directory)["job"])
    else:
        record = next(iter(store.jobs()), None)
    if record is None:
        raise RunError(
            f"{directory} holds no job, for it was never created in {store.name}: remove the "
            "directory and search again"
        )
    return record


def _pointer(directory: Path) -> dict[str, str]:
    path = directory / POINTER_NAME
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(pointer[name]) for name in ("url", "job")}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f'{path} must be {{"url": "postgresql://…", "job": "NAME"}}: {error!r}'
        ) from error
