"""What differs between the databases that a store may live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sql

WAIT_S = 30.0  # how long to wait for another process's transaction


@dataclass(frozen=True, slots=True)
class Backend:
    """A database: `name` for people, `now` its clock (Unix s).

    A transaction whose connection has the execution option `writes` may write. The statement
    `alone` in one keeps other processes from changing the schema. `may_pass` says of an error
    of the driver whether the same call may succeed later. The statement `check` returns "ok"
    for a file that is whole.
    """

    name: str
    engine: sql.Engine
    now: sql.ColumnElement[float]
    may_pass: Callable[[BaseException], bool]
    alone: str | None = None
    check: str | None = None
