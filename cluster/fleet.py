"""The workers of a search: asked for, placed, built, lost and replaced, without ever blocking.

    asked for ──placed on a node──► building ──ready──► idle ◄──► busy
        └───────────────lost, too slow, or worn out: gone, and asked for again

The cluster may grow and shrink while the search runs; the fleet follows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.errors import ExecutorError
from cluster.placement import Resources
from cluster.worker import EvaluationWorker, Limits, Ready

_LOOK_EVERY_S = 2.0
# A worker whose memory has grown by so much since its first item is replaced.
_GROWTH_BYTES = 2 * 2**30
_POLL_S = 0.2
# So many workers in a row that cannot be built mean that none can.
_BUILDS = 3
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Seat:
    """One worker: its actor, the node it is on, and what it is about."""

    actor: Any
    pending: Any
    since: float = field(default_factory=time.monotonic)
    node: str | None = None
    ready: Ready | None = None
    served: int = 0
    first_bytes: int = 0


class Fleet:
    """Keeps as many workers as the cluster has room for, within what is asked."""

    def __init__(self, spec: EvaluatorSpec, resources: Resources, marker: str | None) -> None:
        self.resources = resources
        self.seats: list[Seat] = []
        self.idle: list[Seat] = []
        self._spec = spec
        self._marker = marker
        self._looked = -_LOOK_EVERY_S
        self._alive = time.monotonic()
        self._failed_builds: list[str] = []
        self._is_started = False

    @property
    def ready(self) -> Sequence[Seat]:
        """The workers that can be given items, or have one."""
        return [seat for seat in self.seats if seat.ready is not None]

    @property
    def pending(self) -> list[Any]:
        """What is awaited from workers that are not ready yet."""
        return [seat.pending for seat in self.seats if seat.ready is None]

    def start(self) -> None:
        """Wait until as many workers are ready as the search cannot do without.

        Raises `ExecutorError`, and what gathering the material raises.
        """
        self._follow_cluster(self._alive)  # their processes start while the material is read
        limits = Limits(self.resources.gpus_per_worker, self.resources.memory_bytes)
        # In the object store each node gets one copy of them, whatever its workers.
        material = ray.put(self._spec.gather())
        self._build = (ray.put(self._spec), material, limits, self._marker)
        while len(self.ready) < self.resources.fewest:
            self.tend()
            if self.pending:
                self.advance(ray.wait(self.pending, num_returns=1, timeout=_POLL_S)[0])
            else:
                time.sleep(_POLL_S)
        self._is_started = True

    def tend(self) -> None:
        """Ask for workers that are missing, and give up those that take too long.

        Raises `ExecutorError` once there have been too few for too long, or none can be
        built.
        """
        now = time.monotonic()
        for seat in [x for x in self.seats if x.ready is None and x.node is not None]:
            if now - seat.since > self.resources.ready_s:
                self._give_up(seat, f"it was not ready within {self.resources.ready_s:g} s")
        if now - self._looked >= _LOOK_EVERY_S:
            self._follow_cluster(now)
        self._require_life(now)

    def advance(self, refs: Sequence[Any]) -> None:
        """Take the next step with the workers that `refs` of `pending` belong to."""
        for seat in [x for x in self.seats if x.pending in refs]:
            try:
                answer = ray.get(seat.pending)
            except RayTaskError as error:
                self._give_up(seat, str(error.cause))
            except RayError as error:
                _log.warning("a worker was lost before it was ready: %s", first_line(error))
                self.remove(seat)
            else:
                self._step(seat, answer)

    def remove(self, seat: Seat) -> None:
        """End a worker; another one is asked for as soon as the fleet is tended."""
        ray.kill(seat.actor)
        if seat in self.seats:
            self.seats.remove(seat)
        if seat in self.idle:
            self.idle.remove(seat)

    def give_back(self, seat: Seat, memory_bytes: int) -> None:
        """Take a worker back after an item, or end it when it is worn out."""
        seat.served += 1
        seat.first_bytes = seat.first_bytes or memory_bytes
        grown = memory_bytes - seat.first_bytes > _GROWTH_BYTES
        if grown or seat.served >= self.resources.recycle_after:
            self.lose(seat)
        else:
            self.idle.append(seat)

    def close(self) -> None:
        """End all workers."""
        for seat in list(self.seats):
            self.remove(seat)

    def lose(self, seat: Seat) -> None:
        """End a worker that served, and ask for another one at once."""
        self.remove(seat)
        self._looked = -_LOOK_EVERY_S

    def _follow_cluster(self, now: float) -> None:
        self._looked = now
        for _ in range(self.resources.wanted(ray.nodes()) - len(self.seats)):
            self._ask()

    def _ask(self) -> None:
        actor = ray.remote(EvaluationWorker).options(**self.resources.options()).remote()
        self.seats.append(Seat(actor, actor.node.remote()))

    def _step(self, seat: Seat, answer: str | Ready) -> None:
        if isinstance(answer, Ready):
            seat.ready = answer
            self._failed_builds = []
            self.idle.append(seat)
        else:
            seat.node, seat.since = answer, time.monotonic()
            seat.pending = seat.actor.build.remote(*self._build)

    def _give_up(self, seat: Seat, why: str) -> None:
        _log.warning("a worker could not be started: %s", why)
        self.remove(seat)
        self._failed_builds.append(why)

    def _require_life(self, now: float) -> None:
        """Raise unless the search can go on, or may soon."""
        if len(self._failed_builds) >= (_BUILDS if self._is_started else 1):
            raise ExecutorError(f"a worker could not be started: {self._failed_builds[-1]}")
        needed = 1 if self._is_started else self.resources.fewest
        placed = sum(seat.node is not None for seat in self.seats)
        if placed >= needed:
            self._alive = now
        elif now - self._alive > self.resources.stall_s:
            asks = {key: each for key, each in self.resources.options().items() if each}
            raise ExecutorError(
                f"UNSCHEDULABLE: {placed} of {needed} workers could be placed within "
                f"{self.resources.stall_s:g} s; each asks for {asks}, the cluster has "
                f"{ray.cluster_resources()}; add nodes, or ask for less under resources"
            )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
