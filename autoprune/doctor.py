"""What is wrong with an installation, or with a run: findings, each with what to do.

for finding in examine_run(Path("runs/digits")): ...       # reads, and changes nothing
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from autoprune.artifacts import read_artifact
from autoprune.contracts.store import Event
from autoprune.errors import PluginError, RunError, StoreError, StoreUnavailableError
from autoprune.plugins import SHELVES, shelf_directory
from autoprune.run import FILES_NAME
from autoprune.store.derived import Row, TrialRows, files_named
from autoprune.store.history import History
from autoprune.store.location import open_store, record_of
from autoprune.store.schema import HEAD
from autoprune.store.snapshot import unpack
from autoprune.store.sql import SqlStore

_PACKAGES = ("torch", "torchvision", "ray")
_EXTRAS = {
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "psycopg": "postgres",
}  # package → the extra that brings it
_LOOKS = 20  # at a log that grows while it is read
_SHOWN = 5  # names in a message


class Health(StrEnum):
    """A warning says what could be better; what is broken must be mended."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it is, and what to do where it is not well."""

    name: str
    health: Health
    message: str


def examine_installation() -> list[Finding]:
    """Look at Python, the packages that a search needs, the devices and our own packages."""
    shelves = sorted({each.package for each in SHELVES.values()} | {"cluster"})
    return [
        _python(),
        *(_package(name) for name in (*_PACKAGES, *_EXTRAS)),
        _devices(),
        *(_shelf(package) for package in shelves),
    ]


def examine_run(directory: Path) -> list[Finding]:
    """Look at the store and the files of a run; raises `RunError` where there is no run."""
    findings = []
    try:
        with open_store(directory, read_only=True) as store:
            for finding in _findings(directory, store):
                findings.append(finding)
    except StoreUnavailableError as error:
        findings.append(Finding("store", Health.BROKEN, f"{error}; try again later"))
    except StoreError as error:
        findings.append(Finding("store", Health.BROKEN, f"{error}; restore a backup"))
    return findings


def _python() -> Finding:
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("python", Health.OK, version)
    return Finding("python", Health.BROKEN, f"{version}; use Python 3.11 or 3.12")


def _package(name: str) -> Finding:
    try:
        if name == "torchvision":
            importlib.import_module("autoprune.vision").ensure_torchvision()
        return Finding(name, Health.OK, importlib.import_module(name).__version__)
    except Exception as error:  # packages that do not fit each other raise what they like
        what = f"cannot be imported ({error})"
    if name in _EXTRAS:
        advice = f"where it is needed: pip install 'autoprune[{_EXTRAS[name]}]'"
        return Finding(name, Health.WARNING, f"{what}; {advice}")
    return Finding(name, Health.BROKEN, f"{what}; install autoprune anew")


def _devices() -> Finding:
    try:
        torch = importlib.import_module("torch")
        cuda = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
        threads = torch.get_num_threads()
    except Exception as error:
        return Finding("devices", Health.BROKEN, f"{error}; mend torch or the driver")
    return Finding("devices", Health.OK, ", ".join([*cuda, f"cpu with {threads} threads"]))


def _shelf(package: str) -> Finding:
    try:
        return Finding(package, Health.OK, str(shelf_directory(package)))
    except PluginError as error:
        return Finding(package, Health.BROKEN, str(error))


def _findings(directory: Path, store: SqlStore) -> Iterator[Finding]:
    yield Finding("store", Health.OK, f"{store.name}, schema {HEAD}")
    damage = store.damage()
    if damage is not None:
        advice = "restore a backup, or copy what is left with sqlite3's .recover"
        yield Finding("database", Health.BROKEN, f"{damage}; {advice}")
    job = record_of(directory, store).name
    events, trials, files = _settled(store, job)
    yield from _of_log(events, trials)
    named = {name: row for name, row in files_named(events).items() if row is not None}
    yield _of_artifact_table(named.values(), files)
    yield _of_snapshots(store.snapshots(job), events[-1].seq if events else 0)
    yield from _of_files(directory / FILES_NAME, named)
    yield _of_lease(store, job)


def _settled(store: SqlStore, job: str) -> tuple[list[Event], Sequence[Row], Sequence[Row]]:
    """Return the events, and the derived rows as they were right after the last of them."""
    events = list(store.events(job))
    for _ in range(_LOOKS):
        trials, files = store.trials(job), store.artifacts(job)
        newer = list(store.events(job, after=events[-1].seq if events else 0))
        if not newer:
            return events, trials, files
        events += newer
    raise StoreUnavailableError(f"the log of {job!r} grows faster than it can be read")


def _of_log(events: Sequence[Event], trials: Sequence[Row]) -> Iterator[Finding]:
    """Look at what the log says, and at the table that must say the same of its trials."""
    history, rows = History(), TrialRows()
    for event in events:
        try:
            history.apply(event)
            rows.follow(event)
        except (StoreError, KeyError, TypeError, ValueError) as error:
            message = f"event {event.seq} cannot follow: {error!r}; restore a backup"
            yield Finding("log", Health.BROKEN, message)
            return
    yield Finding("log", Health.OK, f"{len(events)} events, {len(history.trials)} trials")
    expected = [{**row, "state": history.trials[number].state} for number, row in rows.rows.items()]
    if list(trials) == expected:
        yield Finding("trial table", Health.OK, f"{len(trials)} rows")
    else:
        odd = [row["number"] for row in expected if row not in trials]
        yield Finding("trial table", Health.BROKEN, _differs(odd))


def _of_artifact_table(expected: Iterable[Row], found: Sequence[Row]) -> Finding:
    wanted = sorted(expected, key=lambda row: str(row["name"]))
    if wanted == sorted(found, key=lambda row: str(row["name"])):
        return Finding("artifact table", Health.OK, f"{len(found)} rows")
    odd = [row["name"] for row in wanted if row not in found]
    return Finding("artifact table", Health.BROKEN, _differs(odd))


def _differs(odd: Sequence[object]) -> str:
    where = f" (missing or other: {_listed(odd)})" if odd else " (it has more rows)"
    return f"says something else than the log{where}; it was altered: restore a backup"


def _of_snapshots(snapshots: Sequence[tuple[int, bytes]], last: int) -> Finding:
    for seq, body in snapshots:
        if seq > last:
            message = f"one is of event {seq}, but the log ends at {last}: restore a backup"
            return Finding("snapshots", Health.BROKEN, message)
        try:
            unpack(body)
        except StoreError as error:
            advice = "to resume takes longer: the searchers learn from the whole log again"
            return Finding("snapshots", Health.WARNING, f"of event {seq}: {error}; {advice}")
    return Finding("snapshots", Health.OK, f"of events {_listed([seq for seq, _ in snapshots])}")


def _of_files(directory: Path, named: dict[str, Row]) -> Iterator[Finding]:
    """Look at every file that the log names, and for those that it does not."""
    lost = {"weights": "its trial cannot be exported", "checkpoint": "its training cannot go on"}
    for name, row in named.items():
        try:
            read_artifact(directory, name)
        except (RunError, OSError) as error:
            advice = f"{lost[row['kind']]} until it is restored from a backup"
            yield Finding("files", Health.BROKEN, f"{error}; {advice}")
    yield Finding("files", Health.OK, f"{len(named)} named by the log")
    there = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    unfinished = [name for name in there if name.startswith(".")]
    unnamed = [name for name in there if name not in named and name not in unfinished]
    for names, what in ((unfinished, "unfinished"), (unnamed, "not named by the log")):
        if names:
            advice = "unless a search is running they can be deleted"
            message = f"{len(names)} {what} ({_listed(names)}); {advice}"
            yield Finding("files", Health.WARNING, message)


def _of_lease(store: SqlStore, job: str) -> Finding:
    lease = store.lease(job)
    if lease is None or lease.remaining_s <= 0:
        return Finding("lease", Health.OK, "no controller drives the job")
    message = f"{lease.owner} drives the job (epoch {lease.epoch}, {lease.remaining_s:.0f} s left)"
    return Finding("lease", Health.OK, message)


def _listed(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:_SHOWN])) or "none"
    return f"{shown}, …" if len(names) > _SHOWN else shown
