"""Whether a client's job is accepted, and as what."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import grpc

from autoprune.errors import Violation
from cluster.service.catalog import Catalog
from cluster.service.child import Child
from cluster.service.identity import NAME
from cluster.service.job_text import parsed
from cluster.service.refusal import invalid, later

_PATIENCE_S = 60.0
# Each of thousands would be looked up, and all other jobs wait.
_LISTS = ("objectives", "constraints", "searchers", "rungs")
_MOST_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Admitted:
    """A valid job: its name, itself as JSON, and a hash of what the client sent."""

    name: str
    spec: str
    digest: str


class Admission:
    """Judges jobs by the catalogue, and in a process of its own by everything else."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._clerk = Child("cluster.service.clerk")
        self._turn = asyncio.Lock()

    async def admitted(self, text: str) -> Admitted:
        """Return the job in `text`; a `Refusal` names everything that is wrong with it."""
        raw = parsed(text)
        digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
        resolved, problems = self._catalog.resolved(raw)
        problems += _own_rules(raw)
        reply = await self._ask({"raw": resolved, "imports": not problems})
        said = {each.path for each in problems}
        found = [Violation(*each) for each in reply.get("violations", ())]
        problems += [each for each in found if each.path not in said]
        if problems:
            raise invalid(problems)
        return Admitted(raw["name"], json.dumps(reply["job"]), digest)

    async def close(self) -> None:
        """End the process."""
        await self._clerk.stop()

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._turn.acquire()
        asked = asyncio.create_task(self._answer(request))
        asked.add_done_callback(lambda _: self._turn.release())
        # A client that gives up must not cost the others this process, which starts in seconds.
        reply = await asyncio.shield(asked)
        if reply is None:
            raise later(grpc.StatusCode.UNAVAILABLE, "jobs cannot be judged now; try again")
        return reply

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply of the process; None where it ends instead."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if not self._clerk.is_alive:
                    await self._clerk.start()
                await self._clerk.send(request)
                return await self._clerk.receive()
        except BaseException:
            self._clerk.kill()  # its answer would be taken for one to the next request
            raise


def _own_rules(raw: dict[str, Any]) -> list[Violation]:
    """Return what a service asks of a job beside what every job must be."""
    problems = []
    name = raw.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        rule = "1 to 63 lower-case letters, digits, '-' and '_', the first a letter or digit"
        problems.append(Violation("name", name, rule))
    for key in _LISTS:
        given = raw.get(key)
        if isinstance(given, list) and len(given) > _MOST_ENTRIES:
            problems.append(Violation(key, f"{len(given)} entries", f"at most {_MOST_ENTRIES}"))
    resources = raw.get("resources")
    if isinstance(resources, dict) and resources.get("workers") == "serial":
        problems.append(
            Violation("resources.workers", "serial", "a cluster takes auto or a number")
        )
    return problems
