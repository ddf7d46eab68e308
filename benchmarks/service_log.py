"""Made-up logs for the service: those of `benchmarks.front_index`, with a wider front.

Policies decide on 20 groups, every tenth result climbs a rung, every hundredth trial fails, and
there are three objectives with intervals. Their values lie close to a sphere around the worst
corner, so that a front holds hundreds of trials instead of dozens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.contracts.store import Entry, EventKind
from autoprune.store.location import STORE_NAME
from autoprune.store.sql import SqlStore
from benchmarks.front_index import _log

# The best value of each objective, and how far from it the worst one is.
_RANGES = {"error": (0.08, 0.8), "macs": (0.0, 40.6e6), "latency_ms": (0.0, 4.0)}
GOALS = tuple(_RANGES)
_DEPTH = 0.1  # of the layer below the sphere that trials lie in, as a share of its radius


def job_body(name: str) -> dict[str, Any]:
    """Return the job that such a log belongs to, as a client submits it."""
    return {
        "name": name,
        "model": {"name": "digits_cnn"},
        "data": {"name": "digits"},
        "objectives": ["error", "macs", "latency"],
        "searchers": ["nsga2"],
        "rungs": [{}, {"finetune_epochs": 1}],
    }


def entries(trials: int, *, rungs: int = 2) -> Iterator[Entry]:
    """Yield a whole log of so many trials; on one rung, all of them compete with each other."""
    draw = random.Random(1)
    for entry in _log(trials):
        if entry.kind is EventKind.COMPLETED:
            _set_values(entry.body["evaluation"]["measurements"], entry.trial or 0, draw)
        if entry.kind is EventKind.ASKED and rungs == 1:
            yield replace(entry, body={**entry.body, "rung": 0, "parent": None})
        else:
            yield entry


def write_steadily(directory: Path, news: Sequence[Entry], per_second: float) -> None:
    """Go on with the log in a job's directory, an event at a time, as its controller would."""
    with SqlStore(directory / STORE_NAME) as store:
        begun = time.monotonic()
        for place, entry in enumerate(news, 1):
            store.append(directory.name, [entry])
            time.sleep(max(0.0, begun + place / per_second - time.monotonic()))


def points(log: Sequence[Entry]) -> dict[int, list[float]]:
    """Return the values of the completed trials, by number."""
    return {
        entry.trial: [entry.body["evaluation"]["measurements"][name][0] for name in GOALS]
        for entry in log
        if entry.kind is EventKind.COMPLETED and entry.trial is not None
    }


def _set_values(measurements: dict[str, list[Any]], number: int, draw: random.Random) -> None:
    direction = [abs(draw.gauss(0.0, 1.0)) for _ in GOALS]
    length = sum(x * x for x in direction) ** 0.5 / (1.0 - _DEPTH * draw.random())
    for (name, (best, span)), part in zip(_RANGES.items(), direction, strict=True):
        # The dense network has the largest cost and the smallest error.
        share = float(name != "error") if number == 0 else 1.0 - part / length
        value = best + span * share
        is_exact = name == "macs"
        interval = [None, None] if is_exact else [0.98 * value, 1.02 * value]
        measurements[name][:3] = [float(round(value)) if is_exact else value, *interval]
