"""Which completed trials of the highest rung nothing dominates, as of every event.

timeline.complete(7, number=2, rung=0, losses=[0.08, 2e7])
timeline.at(7)                        # numbers of trials
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.dominance import NonDominated

_NEVER = int(np.iinfo(np.int64).max)
_AT_ONCE = 1024  # trials that wait at most: beside memory, they cost the next look a moment


class Timeline:
    """The non-dominated trials under a number of goals, each with the events between which it is.

    As soon as a trial of a higher rung completes all of the lower ones leave, and no other one of
    those enters.

    Trials wait until somebody looks: most are dominated when they come, and to find those takes
    a tenth of the time where it is done for many at once.
    """

    def __init__(self, goals: int) -> None:
        self._goals = goals
        self._waiting: list[tuple[int, int, int, Sequence[float] | None]] = []
        self._rung = 0
        self._known = NonDominated(goals)
        self._turns: list[int] = [0]
        # Of all that nothing dominated once: the trial, and the events that began and ended it.
        self._number, self._entered, self._left = array("q"), array("q"), array("q")
        self._stay: dict[int, int] = {}  # the places there of those in `_known`

    def complete(self, seq: int, number: int, rung: int, losses: Sequence[float] | None) -> None:
        """Take in that a trial completed, with finite losses; None keeps it off the front."""
        self._waiting.append((seq, number, rung, losses))
        if len(self._waiting) == _AT_ONCE:
            self._settle()

    def turn(self, seq: int) -> int:
        """Return the event, `seq` or an earlier one, since which `at` is the same; 0 at first."""
        self._settle()
        return self._turns[bisect_right(self._turns, seq) - 1]

    def at(self, seq: int) -> np.ndarray:
        """Return the numbers of the non-dominated trials as of an event, (n,) int64."""
        self._settle()
        is_there = (np.array(self._entered) <= seq) & (seq < np.array(self._left))
        numbers: np.ndarray = np.array(self._number)[is_there]
        return numbers

    def _settle(self) -> None:
        """Let the trials in that wait."""
        here = [x for x in self._waiting if x[2] == self._rung and x[3] is not None]
        outdone: set[int] = set()
        if len(here) > 1:
            numbers = np.array([number for _, number, _, _ in here])
            is_outdone = self._known.outdone(numbers, np.array([x[3] for x in here]))
            outdone = set(numbers[is_outdone].tolist())
        for seq, number, rung, losses in self._waiting:
            if rung > self._rung:
                self._rise(seq, rung)
            if rung == self._rung and losses is not None and number not in outdone:
                self._enter(seq, number, losses)
        self._waiting.clear()

    def _rise(self, seq: int, rung: int) -> None:
        self._leave(seq, list(self._stay))
        self._rung, self._known = rung, NonDominated(self._goals)
        self._turn(seq)

    def _enter(self, seq: int, number: int, losses: Sequence[float]) -> None:
        left = self._known.add(number, losses)
        if left is None:
            return
        self._leave(seq, left)
        self._stay[number] = len(self._number)
        self._number.append(number)
        self._entered.append(seq)
        self._left.append(_NEVER)
        self._turn(seq)

    def _leave(self, seq: int, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._left[self._stay.pop(number)] = seq

    def _turn(self, seq: int) -> None:
        if self._turns[-1] != seq:
            self._turns.append(seq)
