"""What was measured of completed trials, as of every event."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Split = Literal["shown", "search", "report"]
"""Which evaluation of a trial is meant; shown is that on the report split where there is one."""

_ROOM = 64  # evaluations of which there is room at first; it doubles
_NONE = -1


class Evaluations:
    """The evaluations of a job: of each a row of values with their intervals, by metric."""

    def __init__(self) -> None:
        self._seq = array("q")  # of every row, in the order of the log
        self._trial = array("q")  # of every row
        self._misses = bytearray()  # of every row: whether it misses a soft constraint
        self._measured: dict[str, np.ndarray] = {}  # by metric (room, 3)
        self._room = _ROOM
        self._search = array("q")  # by number of trial: its row on the search split
        self._reported, self._report = array("q"), array("q")  # of every report: trial and row
        # By metric: what `shown` returns of all trials, and how many rows it has seen.
        self._shown: dict[str, tuple[np.ndarray, int]] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of everything that was ever measured."""
        return tuple(self._measured)

    def complete(self, seq: int, number: int, evaluation: Mapping[str, Any]) -> None:
        """Take in how a trial completed, as the event `seq` has it."""
        missing = number + 1 - len(self._search)
        self._search.extend([_NONE] * missing)
        self._search[number] = self._append(seq, number, evaluation)

    def report(self, seq: int, number: int, evaluation: Mapping[str, Any]) -> None:
        """Take in what the report split says of a trial, as the event `seq` has it."""
        self._reported.append(number)
        self._report.append(self._append(seq, number, evaluation))

    def measured(self, metric: str, numbers: np.ndarray, seq: int, split: Split) -> np.ndarray:
        """Return value, low and high (n, 3) of trials as of the event `seq`; NaN where unknown."""
        rows = self._rows(numbers, seq, split)
        if metric not in self._measured:
            return np.full((len(rows), 3), np.nan)
        found: np.ndarray = np.where(rows[:, None] == _NONE, np.nan, self._measured[metric][rows])
        return found

    def shown(self, metric: str, numbers: np.ndarray) -> np.ndarray:
        """Return the values (n,) of trials that people see now; NaN where unknown."""
        column, known = self._shown.get(metric, (np.empty(0), 0))
        if known < len(self._seq):
            new = np.array(self._trial[known:])
            missing = int(new.max()) + 1 - len(column)
            if missing > 0:
                column = np.concatenate([column, np.full(missing + len(column), np.nan)])
            # Of several evaluations of a trial the last one is written last, and stays.
            column[new] = self._measured[metric][known : len(self._seq), 0]
            self._shown[metric] = column, len(self._seq)
        is_known = numbers < len(column)
        if not is_known.all():
            return np.where(is_known, column[np.where(is_known, numbers, 0)], np.nan)
        found: np.ndarray = column[numbers]
        return found

    def misses(self, numbers: np.ndarray) -> np.ndarray:
        """Say which completed trials (n,) miss a soft constraint on the search split."""
        is_missing: np.ndarray = np.array(self._misses)[np.array(self._search)[numbers]] > 0
        return is_missing

    def _append(self, seq: int, number: int, evaluation: Mapping[str, Any]) -> int:
        """Add a row and return its place."""
        row = len(self._seq)
        self._seq.append(seq)
        self._trial.append(number)
        self._misses.append(bool(evaluation["misses"]))
        if row == self._room:
            for metric, known in self._measured.items():
                self._measured[metric] = np.concatenate([known, np.full_like(known, np.nan)])
            self._room *= 2
        for metric, body in evaluation["measurements"].items():
            if metric not in self._measured:
                self._measured[metric] = np.full((self._room, 3), np.nan)
            column = self._measured[metric]
            # One by one, which NumPy does three times as fast as three at once.
            for place in range(3):
                if body[place] is not None:
                    column[row, place] = body[place]
        return row

    def _rows(self, numbers: np.ndarray, seq: int, split: Split) -> np.ndarray:
        """Return the rows (n,) of trials as of the event `seq`."""
        seqs, rows = np.array(self._seq), np.full(len(numbers), _NONE)
        if split != "report":
            is_known = numbers < len(self._search)
            rows[is_known] = np.array(self._search)[numbers[is_known]]
            rows[(rows != _NONE) & (seqs[rows] > seq)] = _NONE
        if split != "search" and len(self._report) and len(numbers):
            report, reported = np.array(self._report), np.array(self._reported)
            is_there = seqs[report] <= seq
            newest = np.full(max(numbers.max(), reported.max()) + 1, _NONE)
            # Of several reports of a trial the last one is written last, and stays.
            newest[reported[is_there]] = report[is_there]
            rows = np.where(newest[numbers] == _NONE, rows, newest[numbers])
        return rows
