"""Who dominates whom, and who is significantly better: of vectors of losses, smaller is better.

known = NonDominated(3)
known.add(17, [0.08, 2e7, 3.1])       # the numbers that leave for 17; None if it is dominated
known.numbers                         # of those that nothing dominates
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

_ROOM = 64  # how many the arrays hold at first; they double
_FEW = 64  # of the known ones, that many are compared with first
_CELLS = 2**18  # of the matrix of who beats whom are looked at, at once


class NonDominated:
    """Vectors of losses that no other one dominates, kept while they come in.

    Each has a number. Of equal vectors the one with the lowest number stays, whatever the
    order of arrival. Losses are finite.
    """

    def __init__(self, goals: int) -> None:
        self._count = 0
        self._numbers = np.empty(_ROOM, dtype=np.int64)
        # One row per goal: comparing goal by goal is several times as fast.
        self._losses = np.empty((goals, _ROOM))

    @classmethod
    def of(cls, numbers: np.ndarray, losses: np.ndarray) -> Self:
        """Return the non-dominated ones of `losses` (n, goals), whose numbers are (n,) int64."""
        found = cls(losses.shape[1])
        if len(numbers):
            import moocore  # slow to import, and needed by nobody who adds one by one

            order = np.argsort(numbers, kind="stable")
            stands = np.empty(len(numbers), dtype=bool)
            stands[order] = moocore.is_nondominated(losses[order])  # the first of equal ones
            found._count = int(stands.sum())
            found._numbers = numbers[stands]
            found._losses = np.ascontiguousarray(losses[stands].T)
        return found

    def __len__(self) -> int:
        return self._count

    @property
    def numbers(self) -> np.ndarray:
        """Their numbers (n,), in the order of arrival; changes with the next one."""
        return self._numbers[: self._count]

    @property
    def losses(self) -> np.ndarray:
        """Their losses (n, goals), in the order of `numbers`; changes with the next one."""
        return self._losses[:, : self._count].T

    def add(self, number: int, losses: Sequence[float]) -> list[int] | None:
        """Take in a vector, in time linear in their count.

        Return the numbers of those that leave for it, None if it is dominated itself.
        """
        new = np.array(losses, dtype=float)[:, None]
        known = self._losses[:, : self._count]
        if self._count:
            is_worse = np.logical_or.reduce(known > new)
            place = int(is_worse.argmin())
            if not is_worse[place]:
                return self._replace(place, number, new)
        stays = np.logical_or.reduce(known < new)
        left = [] if stays.all() else self._remove(stays)
        self._append(number, new)
        return left

    def outdone(self, numbers: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Say which of many (n,), whose losses are (n, goals), will not come in.

        Of the others some may not either, but to add them tells. Per vector this takes a tenth
        of the time.
        """
        # Most are dominated by many: a few of those that are known find nearly all of them.
        few = slice(None, self._count, 1 + self._count // _FEW)
        found = self._outdo(few, numbers, losses)
        rest = np.flatnonzero(~found)
        found[rest] = self._outdo(slice(self._count), numbers[rest], losses[rest])
        return found

    def _outdo(self, which: slice, numbers: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Say which vectors (n,) are no better than one of `which` that has a lower number."""
        is_better = np.less.outer(self._numbers[which], numbers)
        for known, new in zip(self._losses[:, which], losses.T, strict=True):
            is_better &= np.less_equal.outer(known, new)
        found: np.ndarray = is_better.any(axis=0)
        return found

    def _replace(self, place: int, number: int, losses: np.ndarray) -> list[int] | None:
        """Put a vector in place of one that is no worse, if they are equal."""
        # If that one is equal no other one is as good: it would dominate that one.
        other = int(self._numbers[place])
        if number >= other or (self._losses[:, place : place + 1] != losses).any():
            return None
        self._numbers[place] = number
        return [other]

    def _remove(self, stays: np.ndarray) -> list[int]:
        """Remove those that do not stay; return their numbers."""
        left: list[int] = self.numbers[~stays].tolist()
        # NumPy masks a single row ten times as fast as the columns of several.
        for row in (self._numbers, *self._losses):
            row[: self._count - len(left)] = row[: self._count][stays]
        self._count -= len(left)
        return left

    def _append(self, number: int, losses: np.ndarray) -> None:
        if self._count == len(self._numbers):
            self._numbers, self._losses = _doubled(self._numbers), _doubled(self._losses)
        self._numbers[self._count] = number
        self._losses[:, self._count : self._count + 1] = losses
        self._count += 1


def _doubled(array: np.ndarray) -> np.ndarray:
    """Return `array` with twice the room along its last axis."""
    return np.concatenate([array, np.empty_like(array)], axis=-1)


def standing(losses: np.ndarray, margins: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return who remains when all that those who remain beat have left, as places (k,).

    `losses` and `margins` are (n, goals), `numbers` (n,). One beats another where it is better
    by more than the root of both margins' squares in something, and worse by as much in
    nothing. Takes time in n² and an eighth of n² bytes.
    """
    beats = _Beats(losses, margins)
    remaining = np.ones(len(losses), dtype=bool)
    stands = np.zeros(len(losses), dtype=bool)
    rivals = beats.count(np.arange(len(losses)))
    while remaining.any():
        chosen = np.flatnonzero(remaining & (rivals == 0))
        if not len(chosen):  # they beat each other in a circle
            left = np.flatnonzero(remaining)
            chosen = left[np.lexsort((numbers[left], rivals[left]))[:1]]
        stands[chosen] = True
        remaining[chosen] = False
        leave = np.flatnonzero(remaining & (beats.count(chosen) > 0))
        remaining[leave] = False
        rivals -= beats.count(leave)
    return np.flatnonzero(stands)


class _Beats:
    """Who beats whom, one bit for each pair."""

    def __init__(self, losses: np.ndarray, margins: np.ndarray) -> None:
        self._losses, self._margins = losses, margins
        self._block = max(1, _CELLS // max(1, len(losses)))
        places = np.arange(len(losses))
        found = [np.packbits(self._beaten(block), axis=1) for block in self._blocks(places)]
        self._bits = np.concatenate(found) if found else np.empty((0, 0), dtype=np.uint8)

    def count(self, places: np.ndarray) -> np.ndarray:
        """Return by how many of those at `places` each one is beaten, (n,) int64."""
        counts = np.zeros(len(self._losses), dtype=np.int64)
        for block in self._blocks(places):
            beaten = np.unpackbits(self._bits[block], axis=1, count=len(counts))
            counts += beaten.sum(axis=0, dtype=np.int64)
        return counts

    def _blocks(self, places: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(places), self._block):
            yield places[start : start + self._block]

    def _beaten(self, places: np.ndarray) -> np.ndarray:
        """Return whom those at `places` beat, (k, n) bool."""
        better = np.zeros((len(places), len(self._losses)), dtype=bool)
        worse = better.copy()
        for loss, margin in zip(self._losses.T, self._margins.T, strict=True):
            behind = np.subtract.outer(loss[places], loss)
            # Most objectives are exact: without margins there is no root to take.
            limits = np.sqrt(np.add.outer(margin[places] ** 2, margin**2)) if margin.any() else 0.0
            better |= behind < -limits
            worse |= behind > limits
        return better & ~worse
