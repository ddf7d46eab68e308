"""What a front costs a server: one insertion into a large one, and the first look at a long log.

    python -m benchmarks.front_index [--members 10000] [--trials 100000]

Insertion: trials into a front of so many members with three objectives; one that is dominated,
one that comes in, and one for which others leave. First look: a log in SQLite, whose policies
decide on 20 groups and whose trials have three objectives with intervals, is read into an index;
then what the index answers. The log is written by another process, so that its memory does not
count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from autoprune.contracts.objective import Goal
from autoprune.contracts.store import Entry
from autoprune.front import Front
from autoprune.index.job_index import JobIndex
from autoprune.index.trials import trials_from
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.store import entries
from autoprune.store.sql import SqlStore
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement, Trial, TrialState

_GOALS = tuple(Goal(name, "", "min", 1.0) for name in ("a", "b", "c"))
_GROUPS = [f"layer{1 + i // 6}.{i % 6 // 2}.conv{1 + i % 2}" for i in range(20)]
_DENSE = {"error": 0.08, "macs": 40.6e6, "latency_ms": 4.0}
_BATCH = 5000  # entries per append
_UNDER_WAY = 32  # trials that are asked and have not ended


def main() -> None:
    """Print the figures as JSON, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.sqlite"
        writer = multiprocessing.get_context("spawn").Process(
            target=write_log, args=(path, options.trials)
        )
        writer.start()
        writer.join()
        with SqlStore(path, read_only=True) as store:
            index = first_look(store)
            answers(store, index)
    insertions(options.members)


def write_log(path: Path, trials: int) -> None:
    """Write the log of a search: every tenth result climbs a rung, every hundredth fails."""
    with SqlStore(path) as store:
        store.create_job(_job().name, {"job": _job().to_json()})
        batch: list[Entry] = []
        for entry in _log(trials):
            batch.append(entry)
            if len(batch) == _BATCH:
                store.append(_job().name, batch)
                batch.clear()
        store.append(_job().name, batch)


def first_look(store: SqlStore) -> JobIndex:
    """Return an index of the whole log, and print what that took."""
    index = JobIndex(_job(), 10)  # loads the objectives, which are no part of a log
    before, start, cpu = (
        psutil.Process().memory_info().rss,
        time.perf_counter(),
        time.process_time(),
    )
    for outline in store.outline(_job().name, bodies=JobIndex.BODIES):
        index.apply(outline)
    index.front()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _print(
        "first look",
        trials=len(index),
        events=index.last_seq,
        seconds=wall,
        cpu_s=cpu,
        kept_mb=(psutil.Process().memory_info().rss - before) / 1e6,
        peak_mb=(peak - before) / 1e6,
    )
    return index


def answers(store: SqlStore, index: JobIndex) -> None:
    """Print what questions to the index cost, in milliseconds."""
    moments = np.linspace(index.last_seq // 2, index.last_seq - 1, 20, dtype=int).tolist()
    members = index.front().table.members
    page = members[:100].tolist()
    _print(
        "answers",
        members=len(members),
        newest_ms=_median_ms(lambda _: index.front().table.members, moments),
        as_of_ms=_median_ms(lambda seq: index.front(seq).table.members, moments),
        changes_ms=_median_ms(index.changes, moments),
        values_ms=_median_ms(lambda seq: index.values("error", members, seq), moments),
        all_values_ms=_median_ms(lambda seq: index.values("error", index.completed(seq)), moments),
        page_of_100_ms=_median_ms(lambda _: trials_from(store, _job().name, index, page), moments),
    )


def insertions(members: int) -> None:
    """Print what it costs to add a trial to a front, in milliseconds."""
    rng = np.random.default_rng(0)
    directions = np.abs(rng.normal(size=(members + 500, 3)))
    # On a sphere around the worst corner nothing dominates anything else.
    sphere = 1.0 - 0.9 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    trials = [_trial(number, point) for number, point in enumerate(sphere)]
    start = time.perf_counter()
    front = Front.of(trials[:members], _GOALS)
    _print("front at once", members=len(front.members), seconds=time.perf_counter() - start)
    new = range(members + 500, members + 1000)
    worse = [_trial(n, point + 0.001) for n, point in zip(new, sphere, strict=False)]
    better = [_trial(n, point - 0.01) for n, point in zip(new, sphere, strict=False)]
    _print(
        "insertion",
        dominated_ms=_median_ms(front.add, worse),
        comes_in_ms=_median_ms(front.add, trials[members:]),
        others_leave_ms=_median_ms(front.add, better),
    )


def _job() -> Job:
    return Job.model_validate(
        {
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "path": "unused"},
            "objectives": ["error", "macs", "latency"],
            "rungs": [{}, {"finetune_epochs": 1}],
        }
    )


def _log(trials: int) -> Iterator[Entry]:
    """Yield the entries of a log of so many trials, which end in the order of asking."""
    draw = random.Random(0)
    policies: list[Policy] = []
    rungs: list[int] = []
    yield entries.opened()
    for number in range(trials + _UNDER_WAY):
        if number < trials:
            parent = number - 2 * _UNDER_WAY if number % 10 == 0 and number > 100 else None
            is_promoted = parent is not None and rungs[parent] == 0
            policies.append(policies[parent] if parent and is_promoted else _policy(draw, number))
            rungs.append(int(is_promoted))
            yield entries.asked(
                number,
                policies[-1],
                draw.choice(["surrogate", "nsga2", "amc"]) if number else "dense",
                rung=rungs[-1],
                parent=parent if is_promoted else None,
                batch=number,
            )
        if (ended := number - _UNDER_WAY) >= 0:
            yield _end(draw, ended, policies[ended])
    yield entries.closed("finished")


def _policy(draw: random.Random, number: int) -> Policy:
    if number == 0:
        return Policy()
    reach = draw.random()
    ratios = {name: max(1, round(64 * draw.uniform(reach, 1.0))) / 64 for name in _GROUPS}
    return Policy.from_keep_ratios(ratios)


def _end(draw: random.Random, number: int, policy: Policy) -> Entry:
    if number % 100 == 99:
        return entries.failed(number, Failure(FailureKind.TIMEOUT, "600 s are over"), attempt=1)
    kept = statistics.fmean(policy.keep_ratio(name) for name in _GROUPS)
    noise = draw.uniform(0.7, 1.3) if number else 1.0
    values = {
        "error": _DENSE["error"] + 0.8 * (1 - kept) ** 2 * noise,
        "macs": float(round(_DENSE["macs"] * kept**2)),
        "latency_ms": _DENSE["latency_ms"] * kept ** (2 - noise),
    }
    measured = {name: Measurement(x, 0.98 * x, 1.02 * x) for name, x in values.items()}
    measured["macs"] = Measurement(values["macs"])
    parts = {"ratio": Measurement(kept, 0.98 * kept, 1.02 * kept)}
    latency = measured["latency_ms"]
    measured["latency_ms"] = Measurement(latency.value, latency.low, latency.high, parts=parts)
    evaluation = Evaluation(
        measured,
        seconds=draw.uniform(0.8, 1.2),
        phases_s={x: draw.uniform(0.0, 0.3) for x in ("build", "repair", "judge", "time")},
        peak_bytes=draw.randrange(2**28),
    )
    return entries.completed(number, evaluation, attempt=1)


def _trial(number: int, point: np.ndarray) -> Trial:
    measured = {x.name: Measurement(value) for x, value in zip(_GOALS, point.tolist(), strict=True)}
    evaluation = Evaluation(measured)
    return Trial(number, Policy(), "", state=TrialState.COMPLETED, evaluation=evaluation)


def _median_ms(call: Callable[[Any], object], inputs: list[Any]) -> float:
    laps = []
    for each in inputs:
        start = time.perf_counter()
        call(each)
        laps.append(time.perf_counter() - start)
    return 1e3 * statistics.median(laps)


def _print(what: str, **figures: float) -> None:
    print(json.dumps({"what": what, **{name: round(x, 3) for name, x in figures.items()}}))


if __name__ == "__main__":
    main()
