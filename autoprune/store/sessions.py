"""The sessions of a job's controllers: how long they worked, and why the last one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.contracts.store import EventKind


@dataclass(slots=True)
class Sessions:
    """What a log says about them, event by event.

    `close_reason` is None while a session is open, or ended without saying so; `close_seq` is
    the event that closed it.
    """

    close_reason: str | None = None
    close_detail: str = ""
    close_seq: int | None = None
    _closed_s: float = 0.0
    _start: float = 0.0
    _last: float = 0.0
    _is_begun: bool = False

    @property
    def elapsed_s(self) -> float:
        """Seconds worked: for each session, from OPENED to its last event."""
        return self._closed_s + self._last - self._start

    def follow(
        self, seq: int, time: float, kind: EventKind, body: Mapping[str, Any] | None
    ) -> None:
        """Take in the next event; of CLOSED with its body."""
        if kind is EventKind.OPENED:
            self._closed_s = self.elapsed_s
            self._start = self._last = time
            self._is_begun = True
            self.close_reason, self.close_detail, self.close_seq = None, "", None
        elif self._is_begun and time > self._last:
            # A clock that is set back must not give time back to the budget.
            self._last = time
        if kind is EventKind.CLOSED:
            assert body is not None, f"event {seq} closes, and its body was not read"
            self.close_reason, self.close_detail = body["reason"], body["detail"]
            self.close_seq = seq
