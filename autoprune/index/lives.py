"""The lives of trials: where each stands, where it comes from, and which events tell of it.

A few numbers per trial in arrays of Python's own: one by one, they take in numbers five times as
fast as NumPy's.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.contracts.store import EventKind, Outline
from autoprune.errors import StoreError
from autoprune.trial import TrialState

_STATES = tuple(TrialState)
_WAITING, _COMPLETED = (_STATES.index(x) for x in (TrialState.WAITING, TrialState.COMPLETED))
_ENDS = {
    EventKind.COMPLETED: _COMPLETED,
    EventKind.FAILED: _STATES.index(TrialState.FAILED),
    EventKind.INFEASIBLE: _STATES.index(TrialState.INFEASIBLE),
    EventKind.STOPPED: _STATES.index(TrialState.STOPPED),
}
_NO_TRIAL = -1


@dataclass(frozen=True, slots=True)
class TrialOutline:
    """A trial without what is measured of it, and the events that say the rest.

    `asked` and, where there are any, the last of `retried`, the end `ended` and the last of
    `reported` are sequence numbers.
    """

    number: int
    state: TrialState
    searcher: str
    rung: int
    parent: int | None
    asked: int
    retried: int | None
    ended: int | None
    reported: int | None


class Lives:
    """The lives of a job's trials, which are numbered from 0 in the order of asking."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}  # of searchers
        self._state = bytearray()
        self._searcher, self._rung, self._parent = array("q"), array("q"), array("q")
        self._asked, self._ended = array("q"), array("q")
        self._retried: dict[int, int] = {}
        self._reported: dict[int, int] = {}

    def __len__(self) -> int:
        """How many trials were asked."""
        return len(self._state)

    def follow(self, outline: Outline) -> None:
        """Take in the next event; raises `StoreError` where its trial cannot do that."""
        if outline.kind is EventKind.ASKED:
            self._ask(outline)
        elif outline.trial is not None:
            if outline.trial >= len(self._state):
                raise StoreError(f"event {outline.seq} names trial {outline.trial}, never asked")
            if outline.kind is not EventKind.REPEATED:
                self._advance(outline.trial, outline)

    def outline(self, number: int) -> TrialOutline:
        """Return a trial that was asked."""
        # The last first: what is read while another thread applies events is still a life.
        reported, ended = self._reported.get(number), self._ended[number]
        retried = self._retried.get(number)
        parent = self._parent[number]
        return TrialOutline(
            number,
            self.state(number),
            list(self._names)[self._searcher[number]],
            self._rung[number],
            None if parent == _NO_TRIAL else parent,
            self._asked[number],
            retried,
            ended or None,
            reported,
        )

    def reported(self, numbers: Sequence[int]) -> list[int]:
        """Return the events that last reported trials; 0 where there is none."""
        return [self._reported.get(number, 0) for number in numbers]

    def state(self, number: int) -> TrialState:
        """Return where a trial stands."""
        return _STATES[self._state[number]]

    def rung(self, number: int) -> int:
        """Return the rung of a trial."""
        return self._rung[number]

    def children(self, number: int) -> list[int]:
        """Return the trials that were promoted from one."""
        children: list[int] = np.flatnonzero(np.array(self._parent) == number).tolist()
        return children

    def counts(self) -> dict[TrialState, int]:
        """Return how many trials are in each state that any is in."""
        counts = np.bincount(np.array(self._state), minlength=len(_STATES)).tolist()
        return {state: count for state, count in zip(_STATES, counts, strict=True) if count}

    def numbers(self, states: Collection[TrialState]) -> np.ndarray:
        """Return the numbers (n,) of the trials in one of `states`."""
        codes = [_STATES.index(state) for state in states]
        return np.flatnonzero(np.isin(np.array(self._state), codes))

    def completed(self, seq: int) -> np.ndarray:
        """Return the numbers (n,) of the trials that completed up to the event `seq`."""
        is_completed = np.array(self._state) == _COMPLETED
        return np.flatnonzero(is_completed & (np.array(self._ended) <= seq))

    def _ask(self, outline: Outline) -> None:
        if outline.trial != len(self._state):
            raise StoreError(
                f"event {outline.seq} asks trial {outline.trial}, not {len(self._state)}"
            )
        assert outline.origin is not None, f"event {outline.seq} asks, and has no origin"
        searcher, rung, parent = outline.origin
        self._state.append(_WAITING)
        self._searcher.append(self._names.setdefault(searcher, len(self._names)))
        self._rung.append(rung)
        self._parent.append(_NO_TRIAL if parent is None else parent)
        self._asked.append(outline.seq)
        self._ended.append(0)

    def _advance(self, number: int, outline: Outline) -> None:
        seq, kind, state = outline.seq, outline.kind, self._state[number]
        if state != (_COMPLETED if kind is EventKind.REPORTED else _WAITING):
            raise StoreError(f"event {seq} is {kind} for trial {number}, which is {_STATES[state]}")
        if kind is EventKind.REPORTED:
            self._reported[number] = seq
        elif kind is EventKind.RETRIED:
            self._retried[number] = seq
        else:
            self._state[number] = _ENDS[kind]
            self._ended[number] = seq
