"""When a call is tried again: after pauses that double, each cut at random, up to a limit.

    attempts = Attempts(patience.deadline_s, patience)
    pause_s = attempts.pause_s()              # None: there is no time left

Pauses are drawn from [0, longest so far], so that many clients of a server that comes back do
not ask all at once ("full jitter": Brooker, Exponential Backoff and Jitter, AWS, 2015).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, in seconds.

    A call takes `deadline_s` at most, with all its repetitions. A stream that broke is opened
    again for `reconnect_s` since the last word of the server.
    """

    deadline_s: float = 30.0
    reconnect_s: float = 300.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0


class Attempts:
    """The attempts at one thing, `limit_s` seconds from now in all.

    `reason` is why the last one failed that did.
    """

    def __init__(self, limit_s: float, patience: Patience) -> None:
        self.failures = 0
        self.reason: Exception | None = None
        self._patience = patience
        self._random = random.Random()
        self._end = time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def pause_s(self, asked_s: float | None = None) -> float | None:
        """Count a failure; return the pause until the next attempt, None where time is up.

        `asked_s` is what the server asks for: the pause is no shorter.
        """
        doubled = self._patience.first_pause_s * float(2 ** min(self.failures, 30))
        self.failures += 1
        longest = min(self._patience.longest_pause_s, doubled)
        pause = (asked_s or 0.0) + self._random.uniform(0.0, longest)
        return pause if pause < self.left_s else None
