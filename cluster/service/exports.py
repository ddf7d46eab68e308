"""Exported networks: written once, by a process of their own, and sent in parts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from autoprune import plugins
from autoprune.artifacts import write_whole
from autoprune.errors import Violation, suggestion
from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.service.live import Logs
from cluster.service.refusal import Refusal, invalid, precondition
from cluster.service.registry import Submission

_CHUNK = 2**18
_BAD_INPUT = 2  # the command line's exit code


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how far its outputs are from the network's, in `unit`."""

    size_bytes: int
    sha256: str
    max_error: float
    unit: str


class Exports:
    """Writes networks into their jobs' directories, one at a time, and keeps them there."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._turn = asyncio.Lock()
        self._turns: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def stream(
        self, job: Submission, trial: int, target: str, offset: int
    ) -> AsyncIterator[pb.ExportTrialResponse]:
        """Yield a header, then the file from `offset` on."""
        formats = plugins.names("exporter")
        problems = []
        if target not in formats:
            rule = f"no format; {suggestion(target[:100], formats)}"
            problems.append(Violation("format", target[:100], rule))
        if offset < 0:
            problems.append(Violation("offset", offset, "0 or more"))
        if problems:
            raise invalid(problems)
        path = self._logs.directory_of(job) / "exports" / f"{trial}.{target}"
        async with self._turns[path]:
            found = await self._written(self._logs.directory_of(job), trial, target, path)
        if offset > found.size_bytes:
            message = f"the file has {found.size_bytes} bytes, and offset is {offset}"
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, message)
        yield pb.ExportTrialResponse(header=pb.ExportHeader(trial=trial, **asdict(found)))
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield pb.ExportTrialResponse(chunk=chunk)

    async def _written(self, directory: Path, trial: int, target: str, path: Path) -> Exported:
        note = path.with_name(f"{path.name}.json")
        if note.exists():
            return Exported(**json.loads(note.read_text()))
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # of an export that was cut short
        async with self._turn:
            reply = await _exported(directory, trial, target, path)
        digest = await asyncio.to_thread(_sha256, path)
        found = Exported(
            path.stat().st_size, digest, float(reply["max_error"]), str(reply.get("unit", ""))
        )
        write_whole(note, json.dumps(asdict(found)).encode())
        return found


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
