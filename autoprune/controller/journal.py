"""The writing side of a job's log: grouped commits, and patience while storage cannot serve.

    journal = Journal(store, "resnet20", epoch=3, after=history.last_seq)
    for event in journal.stage([entries.asked(...)]):     # what will stand in the log
        state.apply(event)
    journal.flush()                                       # durable from here on

Nothing outside this process may depend on what is staged before `flush` has returned. A
disk that is full or a database that is gone pauses the search here, and nothing is lost:
the same entries are written as soon as it can be done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from autoprune.contracts.store import Entry, Event, Store
from autoprune.errors import StoreUnavailableError

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


class Journal:
    """Writes the log of `job` after its event `after`, as the controller of one `epoch`.

    `idle` is called with seconds to let pass while storage cannot serve; what it raises
    ends the wait. `trouble` says why the journal is waiting, None while it is not.
    """

    def __init__(
        self,
        store: Store,
        job: str,
        *,
        epoch: int = 0,
        after: int = 0,
        idle: Callable[[float], None] = time.sleep,
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._job = job
        self._epoch = epoch
        self._durable = after
        self._idle = idle
        self._staged: list[Entry] = []

    def stage(self, entries: Sequence[Entry]) -> list[Event]:
        """Put entries behind those that wait to be written; return them as events."""
        first = self._durable + len(self._staged) + 1
        self._staged += entries
        now = time.time()
        return [
            Event(seq, now, each.kind, each.trial, each.attempt, each.body)
            for seq, each in enumerate(entries, first)
        ]

    def flush(self) -> None:
        """Write what is staged in one transaction, however long storage makes it wait."""
        pause_s = _FIRST_PAUSE_S
        while self._staged:
            try:
                if self.trouble is not None and (written := self._written()):
                    self._advance(written)
                    continue
                self._store.append(self._job, self._staged, epoch=self._epoch, after=self._durable)
            except StoreUnavailableError as error:
                if self.trouble is None:
                    _log.warning("paused: %s; the search goes on as soon as it can", error)
                self.trouble = str(error)
                self._idle(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self._advance(len(self._staged))
        if self.trouble is not None:
            _log.warning("resumed: the log can be written again")
            self.trouble = None

    def save_snapshot(self, body: bytes) -> None:
        """Keep a snapshot of what follows from the log; it only saves time, so it may fail."""
        try:
            self._store.save_snapshot(self._job, self._durable, body, epoch=self._epoch)
        except StoreUnavailableError as error:
            _log.warning("no snapshot is kept: %s", error)

    def _advance(self, count: int) -> None:
        self._durable += count
        del self._staged[:count]

    def _written(self) -> int:
        """Return how many of the staged entries were written by calls that seemed to fail."""
        found = list(self._store.events(self._job, after=self._durable))
        staged = [(x.kind, x.trial, x.attempt, dict(x.body)) for x in self._staged[: len(found)]]
        # Whoever wrote anything else: the store refuses to append to it, and says why.
        is_own = [(x.kind, x.trial, x.attempt, x.body) for x in found] == staged
        return len(found) if is_own else 0
