"""The tables that follow from the events: the life of each trial, and the files in use.

    derive(connection, job, events)       # StoreError where a trial cannot do that

Trials are asked in the order 0, 1, 2, …; an open one is retried any number of times and
ends once; a completed one may be reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql

from autoprune.contracts.store import Event, EventKind
from autoprune.errors import StoreError
from autoprune.store import schema
from autoprune.trial import TrialState

Row = dict[str, Any]

_ENDS: Mapping[EventKind, TrialState] = {
    EventKind.COMPLETED: TrialState.COMPLETED,
    EventKind.FAILED: TrialState.FAILED,
    EventKind.INFEASIBLE: TrialState.INFEASIBLE,
    EventKind.STOPPED: TrialState.STOPPED,
}
_ATTEMPTED = (EventKind.COMPLETED, EventKind.FAILED, EventKind.RETRIED)
_ADVANCING = (*_ENDS, EventKind.RETRIED, EventKind.REPORTED)
_AT_ONCE = 500  # values in one IN (…)
_CHANGING = ("state", "attempts", "seq")

# Built once: an append takes longer to word its statements than to run them.
_OF_JOB = schema.trial.c.job == sql.bindparam("of")
_NEWEST = sql.select(sql.func.max(schema.trial.c.number)).where(_OF_JOB)
_ROWS = sql.select(*list(schema.trial.c)[1:]).where(
    _OF_JOB, schema.trial.c.number.in_(sql.bindparam("trials", expanding=True))
)
_INSERT = sql.insert(schema.trial)
_UPDATE = (
    sql.update(schema.trial)
    .where(_OF_JOB, schema.trial.c.number == sql.bindparam("trial"))
    .values({name: sql.bindparam(f"new_{name}") for name in _CHANGING})
)


class TrialRows:
    """Rows of the trial table: those that are needed, and what becomes of them."""

    def __init__(self, next_number: int = 0, rows: Mapping[int, Row] | None = None) -> None:
        self.rows: dict[int, Row] = dict(rows or {})
        self._next = next_number

    def follow(self, event: Event) -> None:
        """Take in an event; raises `StoreError` where its trial cannot do that."""
        if event.kind is EventKind.ASKED:
            self._ask(event)
        elif event.trial is not None:
            if event.trial >= self._next:
                raise StoreError(f"{event.kind} names trial {event.trial}, which was never asked")
            if event.kind in _ADVANCING:
                self._advance(self.rows[event.trial], event)

    def _ask(self, event: Event) -> None:
        if event.trial != self._next:
            raise StoreError(
                f"trial {event.trial} cannot be asked: trials are asked in order, and the next "
                f"is {self._next}"
            )
        self.rows[self._next] = {
            "number": self._next,
            "searcher": event.body.get("searcher"),
            "rung": event.body.get("rung"),
            "parent": event.body.get("parent"),
            "state": str(TrialState.WAITING),
            "attempts": 0,
            "seq": event.seq,
        }
        self._next += 1

    def _advance(self, row: Row, event: Event) -> None:
        allowed = TrialState.WAITING
        if event.kind is EventKind.REPORTED:
            allowed = TrialState.COMPLETED
        if row["state"] != allowed:
            raise StoreError(
                f"trial {event.trial} cannot be {event.kind}: it is {row['state']}, and only a "
                f"{allowed} one can"
            )
        row["state"] = str(_ENDS.get(event.kind, allowed))
        row["seq"] = event.seq
        if event.kind in _ATTEMPTED:
            row["attempts"] = event.attempt


def files_named(events: Sequence[Event]) -> dict[str, Row | None]:
    """Return the files that events name, as rows; None for one that is superseded."""
    rows: dict[str, Row | None] = {}
    for event in events:
        if event.kind in (EventKind.COMPLETED, EventKind.REPORTED):
            name, kind = event.body.get("evaluation", {}).get("weights"), "weights"
        elif event.kind is EventKind.TRAINED:
            progress = event.body.get("progress", {})
            name, kind = progress.get("checkpoint"), "checkpoint"
            if progress.get("superseded") is not None:
                rows[progress["superseded"]] = None
        else:
            continue
        if name is not None:
            rows[name] = {"name": name, "kind": kind, "trial": event.trial, "seq": event.seq}
    return rows


def derive(connection: sql.Connection, job: str, events: Sequence[Event]) -> None:
    """Write what follows from new events; raises `StoreError` where one cannot follow."""
    if any(event.trial is not None for event in events):
        _derive_trials(connection, job, events)
    files = files_named(events)
    if files:
        table = schema.artifact
        named = sql.and_(table.c.job == job, table.c.name == sql.bindparam("file"))
        connection.execute(sql.delete(table).where(named), [{"file": name} for name in files])
        rows = [{"job": job, **row} for row in files.values() if row is not None]
        if rows:
            connection.execute(sql.insert(table), rows)


def _derive_trials(connection: sql.Connection, job: str, events: Sequence[Event]) -> None:
    last = connection.scalar(_NEWEST, {"of": job})
    next_number = 0 if last is None else last + 1
    known = _rows(connection, job, events, next_number)
    trials = TrialRows(next_number, known)
    for event in events:
        trials.follow(event)
    asked = [{"job": job, **row} for number, row in trials.rows.items() if number >= next_number]
    if asked:
        connection.execute(_INSERT, asked)
    if known:
        changed = [
            {"of": job, "trial": row["number"], **{f"new_{x}": row[x] for x in _CHANGING}}
            for row in known.values()
        ]
        connection.execute(_UPDATE, changed)


def _rows(
    connection: sql.Connection, job: str, events: Sequence[Event], next_number: int
) -> dict[int, Row]:
    """Return the rows of earlier trials that `events` change."""
    changing = (x.trial for x in events if x.kind in _ADVANCING and x.trial is not None)
    numbers = sorted({number for number in changing if number < next_number})
    rows: dict[int, Row] = {}
    for start in range(0, len(numbers), _AT_ONCE):
        chosen = {"of": job, "trials": numbers[start : start + _AT_ONCE]}
        rows |= {row["number"]: dict(row) for row in connection.execute(_ROWS, chosen).mappings()}
    return rows
