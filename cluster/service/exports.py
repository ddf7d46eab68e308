"""Exported files: written once, by a process of their own, and sent in parts.

What is written of a network stays as it is; what is written of a job is written anew when its
log has grown. Who has begun with the files of one export gets the rest of them all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from autoprune import plugins
from autoprune.artifacts import write_whole
from autoprune.contracts.exporter import Exporter, RunExporter
from autoprune.errors import Violation, suggestion
from autoprune.trial import TrialState
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.service.live import LiveLog, Logs
from cluster.service.refusal import Refusal, invalid, precondition
from cluster.service.registry import Submission

_CHUNK = 2**18
_BAD_INPUT = 2  # the command line's exit code


@dataclass(frozen=True, slots=True)
class Written:
    """One export: its files by their companions' endings, "" for the main one, and how far
    outputs are from the network's, in `unit`.

    `sequence` is the event of the log up to which a job is told at least.
    """

    sequence: int
    max_error: float
    unit: str
    sizes: dict[str, int]
    digests: dict[str, str]

    def header(self, trial: int, companion: str) -> pb.ExportHeader:
        """Return what is said of one of the files."""
        return pb.ExportHeader(
            trial=trial,
            size_bytes=self.sizes[companion],
            sha256=self.digests[companion],
            max_error=self.max_error,
            unit=self.unit,
            companions=[each for each in self.sizes if each],
            export_sha256=hashlib.sha256("".join(self.digests.values()).encode()).hexdigest(),
        )


class Exports:
    """Writes exports into their jobs' directories, one at a time, and keeps them there."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._turn = asyncio.Lock()
        self._turns: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def stream(
        self, job: Submission, log: LiveLog, trial: int, request: pb.ExportTrialRequest
    ) -> AsyncIterator[pb.ExportTrialResponse]:
        """Yield a header, then the file from an offset on."""
        kind, state = _checked(request), log.index.outline(trial).state
        is_of_run = issubclass(kind, RunExporter)
        if not is_of_run and state is not TrialState.COMPLETED:
            raise precondition(f"trial {trial} is {state}; only completed trials are exported")
        directory = self._logs.directory_of(job)
        room = directory / "exports" / request.format / str(trial)
        path = room / f"{request.format}{kind.suffix}"
        is_begun = bool(request.offset or request.companion)
        needed = log.index.last_seq if is_of_run and not is_begun else 0
        async with self._turns[room]:
            found = _noted(room, needed)
            if found is None:
                sequence = log.index.last_seq
                async with self._turn:
                    found = await _written(directory, trial, request.format, path, sequence)
            companion = request.companion
            # Opened before others may have it written anew: it is sent as it is now.
            file = (path.with_suffix(companion) if companion else path).open("rb")
        with file:
            size = found.sizes[companion]
            if request.offset > size:
                message = f"the file has {size} bytes, and offset is {request.offset}"
                raise Refusal(grpc.StatusCode.OUT_OF_RANGE, message)
            yield pb.ExportTrialResponse(header=found.header(trial, companion))
            file.seek(request.offset)
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield pb.ExportTrialResponse(chunk=chunk)


def _checked(request: pb.ExportTrialRequest) -> type[Exporter[Any]]:
    """Return the exporter that is asked for; a `Refusal` where something cannot be meant."""
    formats, target = plugins.names("exporter"), request.format
    problems = []
    if target not in formats:
        rule = f"no format; {suggestion(target[:100], formats)}"
        problems.append(Violation("format", target[:100], rule))
    if request.offset < 0:
        problems.append(Violation("offset", request.offset, "0 or more"))
    if problems:
        raise invalid(problems)
    kind: type[Exporter[Any]] = plugins.load("exporter", target)
    if kind.logs_elsewhere:
        rule = "logs elsewhere, which a server does for nobody: export it with the command line"
        raise invalid([Violation("format", target, rule)])
    companion = request.companion[:100]
    if companion and companion not in kind.companions:
        rule = f"no file beside one of {target}; {suggestion(companion, kind.companions)}"
        raise invalid([Violation("companion", companion, rule)])
    return kind


def _noted(room: Path, sequence: int) -> Written | None:
    """Return the export in a directory, None if it is older or not there."""
    note = _note(room)
    if not note.exists():
        return None
    found = Written(**json.loads(note.read_text()))
    return found if found.sequence >= sequence else None


async def _written(directory: Path, trial: int, target: str, path: Path, sequence: int) -> Written:
    """Export to `path`, alone in its directory, and note it beside that."""
    room = path.parent
    _note(room).unlink(missing_ok=True)
    await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)  # older, or cut short
    room.mkdir(parents=True)
    reply = await _exported(directory, trial, target, path)
    files = {"": path, **{Path(each).suffix: Path(each) for each in reply["others"]}}
    found = Written(
        sequence,
        float(reply["max_error"]),
        str(reply["unit"]),
        {companion: each.stat().st_size for companion, each in files.items()},
        {companion: await asyncio.to_thread(_sha256, each) for companion, each in files.items()},
    )
    write_whole(_note(room), json.dumps(asdict(found)).encode())
    return found


def _note(room: Path) -> Path:
    return room.with_name(f"{room.name}.json")


async def _exported(directory: Path, trial: int, target: str, path: Path) -> dict[str, Any]:
    """Have the command line export, which loads torch; return what it prints."""
    command = [sys.executable, "-m", "autoprune.cli.main", "export", str(directory), str(trial)]
    process = await asyncio.create_subprocess_exec(
        *command,
        *("--to", target, "--out", str(path), "--format", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except BaseException:  # nobody waits for it any more
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        text = errors.decode(errors="replace").strip()
        message = text.removeprefix("error: ").removeprefix("failed: ")
        if process.returncode == _BAD_INPUT:
            raise precondition(message.replace(str(directory), "the job"))
        raise RuntimeError(f"the export of trial {trial} ended with {process.returncode}: {text}")
    reply: dict[str, Any] = json.loads(output)
    return reply


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
