"""What entries say of methods: means over seeds, ranks, and which differences are more than noise.

The best at a share is the one with the lowest mean error on V. Differences are judged on T, which
nothing was chosen by: a method and the best, or its yardstick, are compared image by image under
the same seeds. The yardstick is random choice with the same recovery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats

from autoprune.comparison.entry import Entry, Key
from autoprune.comparison.method import Method
from autoprune.comparison.request import ERROR

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean over seeds, and their standard deviation; None of one seed."""

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean)
        squares = math.fsum((each - mean) ** 2 for each in values)
        return cls(mean, math.sqrt(squares / (len(values) - 1)))

    def to_json(self) -> dict[str, float | None]:
        """Return a JSON object."""
        return {"mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much the error of one method is above that of another, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_worse(self) -> bool:
        """Say whether the first one errs more, beyond noise."""
        return self.low > 0.0

    @property
    def is_better(self) -> bool:
        """Say whether the first one errs less, beyond noise."""
        return self.high < 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high}


def difference(first: np.ndarray, second: np.ndarray) -> Difference | None:
    """Return the difference of two errors; both say which samples are wrong, (seeds, samples).

    Of every sample the difference is taken under the same seed. Two things vary: which samples
    there are (by the mean over seeds of each, normal) and which seeds (by the mean over samples
    of each, Student's t, so that two or three seeds prove little). Both half widths are joined as
    the root of their squares, and one sample is added, the continuity correction of McNemar's
    test (Edwards, Psychometrika 1948). One seed says nothing of others: its interval is that of
    samples alone. None where there are fewer than two samples.
    """
    seeds, samples = first.shape
    if samples < 2:
        return None
    apart = first.astype(np.float64) - second
    half = stats.norm.ppf((1 + _CONFIDENCE) / 2) * _standard_error(apart.mean(axis=0))
    if seeds > 1:
        quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, seeds - 1)
        half = math.hypot(half, quantile * _standard_error(apart.mean(axis=1)))
    value, half = float(apart.mean()), float(half) + 1.0 / samples
    return Difference(value, value - half, value + half)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one share. Without a finished seed there are no values, and no rank.

    `errors` are spreads on `search` (V) and `report` (T), `others` those of the other metrics on
    T. `from_best` is the difference to the best of the share, `from_random` that to the yardstick,
    both on T over the seeds that both have finished; None where there is no such, or it is itself.
    """

    method: Method
    share: float
    entries: tuple[Entry, ...]
    errors: Mapping[str, Spread] = field(default_factory=dict)
    others: Mapping[str, Spread] = field(default_factory=dict)
    rank: int | None = None
    from_best: Difference | None = None
    from_random: Difference | None = None

    @property
    def failures(self) -> tuple[Entry, ...]:
        """The entries of seeds that failed."""
        return tuple(each for each in self.entries if each.outcome.failure)

    @property
    def is_best(self) -> bool:
        """Say whether no method has a lower error on V."""
        return self.rank == 1

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, with the values of every seed."""
        apart = {"from_best": self.from_best, "from_random": self.from_random}
        return {
            **self.method.to_json(),
            "share": self.share,
            "rank": self.rank,
            "error": {split: each.to_json() for split, each in self.errors.items()},
            "report": {name: each.to_json() for name, each in self.others.items()},
            **{name: each.to_json() if each else None for name, each in apart.items()},
            "seeds": [_seed_json(each) for each in self.entries],
        }


def rows_of(
    entries: Mapping[Key, Entry],
    methods: Sequence[Method],
    shares: Sequence[float],
    seeds: Sequence[int],
) -> list[Row]:
    """Return a row for every method and share; shares ascend, and under each of them methods
    stand in one order: by their error on V at the smallest share, failed ones last.
    """
    table: dict[float, dict[Method, Row]] = {}
    for share in sorted(shares):
        own = [_row(entries, each, share, seeds) for each in methods]
        table[share] = {row.method: row for row in _ranked(own)}

    def place(method: Method) -> list[float]:
        rows = (by_method[method] for by_method in table.values())
        return [row.errors["search"].mean if row.errors else math.inf for row in rows]

    order = sorted(methods, key=place)
    return [by_method[method] for by_method in table.values() for method in order]


def _row(entries: Mapping[Key, Entry], method: Method, share: float, seeds: Sequence[int]) -> Row:
    own = tuple(entries[key] for seed in seeds if (key := (method, share, seed)) in entries)
    finished = [each.outcome.measured for each in own if each.outcome.failure is None]
    if not finished:
        return Row(method, share, own)

    def spread(split: str, metric: str) -> Spread:
        return Spread.of([each[split][metric].value for each in finished])

    errors = {split: spread(split, ERROR) for split in ("search", "report")}
    others = {name: spread("report", name) for name in finished[0]["report"] if name != ERROR}
    return Row(method, share, own, errors, others)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one share with ranks and differences; equal errors have equal ranks."""
    finished = sorted((x for x in rows if x.errors), key=lambda row: row.errors["search"].mean)
    means = sorted({row.errors["search"].mean for row in finished})
    by_method = {row.method: row for row in finished}
    return [
        _judged(
            row,
            finished[0],
            by_method.get(row.method.yardstick),
            1 + means.index(row.errors["search"].mean),
        )
        if row.errors
        else row
        for row in rows
    ]


def _judged(row: Row, best: Row, yardstick: Row | None, rank: int) -> Row:
    is_own = yardstick is None or row.method == yardstick.method
    return replace(
        row,
        rank=rank,
        from_best=None if rank == 1 else _apart(row, best),
        from_random=None if is_own or yardstick is None else _apart(row, yardstick),
    )


def _apart(row: Row, other: Row) -> Difference | None:
    """Return the difference on T over the seeds that both have finished; None without any."""
    theirs = {each.seed: each.outcome.wrong for each in other.entries}
    pairs = [
        (each.outcome.wrong, theirs[each.seed])
        for each in row.entries
        if each.outcome.wrong is not None and theirs.get(each.seed) is not None
    ]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return difference(np.stack(first), np.stack(second))


def _seed_json(entry: Entry) -> dict[str, Any]:
    body = entry.to_json()
    return {key: body[key] for key in ("seed", "seconds", "failure", "measured")}
