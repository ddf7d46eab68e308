"""A process of the server's own that is spoken to in lines of JSON.

    child = Child("cluster.service.clerk")
    await child.start()
    await child.send({"raw": job})
    reply = await child.receive()          # None once it has ended

It does what needs torch or Ray, which the server itself never loads, and ends with the server:
its standard input ends then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_LINE = 64 * 2**20
_GRACE_S = 10.0
_log = logging.getLogger(__name__)


class Child:
    """The process `python -m MODULE ARGUMENTS`; its standard error goes to the server's log."""

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self._module = module
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._echo: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; one that ran before must have ended."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C in the server's terminal is the server's to handle
        )
        assert self._process.stderr is not None
        self._echo = asyncio.create_task(self._log_errors(self._process.stderr))

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one to a process that has ended is lost."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # `receive` tells

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None once the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            return None
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def stop(self) -> None:
        """Let the process end, and end it where it does not in time."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()
        if self._echo is not None:
            await self._echo

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _log_errors(self, stream: asyncio.StreamReader) -> None:
        try:
            while line := await stream.readline():
                text = line.decode(errors="replace").rstrip()
                _log.warning("%s: %s", self._module.rpartition(".")[2], text)
        except ValueError:
            pass  # a line without an end; what follows is of no use
