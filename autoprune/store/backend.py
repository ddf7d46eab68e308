"""What differs between the databases that a store may live in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from autoprune.errors import StoreError, StoreUnavailableError

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

    @contextmanager
    def transaction(self, what: str, *, writes: bool = False) -> Iterator[sql.Connection]:
        """Run one transaction; database errors come out as `StoreError` with their cause.

        `what` completes "cannot …" for people.
        """
        try:
            with (
                self.engine.connect().execution_options(writes=writes) as connection,
                connection.begin(),
            ):
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            may_pass = isinstance(error, NoConnectionError) or self.may_pass(cause)
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            kind = StoreUnavailableError if may_pass or lost else StoreError
            raise kind(f"cannot {what} in {self.name}: {str(cause).strip()}") from error
