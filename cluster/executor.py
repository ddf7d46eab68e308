"""Runs evaluations on Ray actors: warm, one item each, replaced when they die.

Metrics that need an exclusive process (latency) are measured on one node and one kind of
device: finished items are held back, the workers of that node drain, and one of them
measures all of them alone. Workers of other nodes go on meanwhile.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError

from autoprune.artifacts import read_artifact, write_artifact
from autoprune.contracts.executor import (
    EvaluatorSpec,
    Executor,
    Result,
    WorkItem,
    WorkResult,
    failed,
)
from autoprune.contracts.training import TrainingItem
from autoprune.errors import ExecutorError
from autoprune.executor.failure import failure_of
from autoprune.trial import Failure, FailureKind
from cluster.fleet import Fleet, Seat, first_line
from cluster.placement import Resources
from cluster.worker import Served

# Finished items per worker that are held back before the workers drain for a probe.
_PROBE_BATCH_PER_WORKER = 4
_MARKER = ".executor-"


@dataclass
class _Running:
    item: WorkItem | TrainingItem
    seat: Seat
    is_probe: bool = False
    started: float = field(default_factory=time.monotonic)


class RayExecutor(Executor):
    """Runs items on the workers of a Ray cluster that this process is connected to.

    `files` is the run's directory of artifacts. `probe_device` is the kind of device that
    exclusive measurements were taken on so far, if any were. Raises `ExecutorError` when too
    few workers get ready within the limits.
    """

    def __init__(
        self,
        spec: EvaluatorSpec,
        resources: Resources,
        *,
        files: Path | None = None,
        probe_device: str | None = None,
    ) -> None:
        self._resources = resources
        self._files = files
        self._probe_device = probe_device
        self._running: dict[Any, _Running] = {}
        self._held: list[WorkResult] = []
        self._probe_node: str | None = None
        self._sent: dict[str, Any] = {}
        self._marker = None if files is None else _marked(files)
        self._fleet = Fleet(spec, resources, None if self._marker is None else str(self._marker))
        self._is_closed = False
        try:
            self._fleet.start()
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """Idle workers, without those of a node that drains for exclusive measurements."""
        return len(self._assignable())

    def submit(self, item: WorkItem | TrainingItem) -> None:
        """Start an item on an idle worker; raises `ExecutorError` if there is none."""
        seats = self._assignable()
        if not seats:
            raise ExecutorError("no free worker: call wait before the next submit")
        seat = seats[-1]
        call = seat.actor.train if isinstance(item, TrainingItem) else seat.actor.evaluate
        self._run(call.remote(item, self._needed(item, seat)), _Running(item, seat))

    def wait(self, timeout_s: float) -> Sequence[Result]:
        """Return what finished, died or ran out of time within `timeout_s` seconds.

        Raises `ExecutorError` once there has been no worker for too long.
        """
        if self._is_closed:
            return []
        self._fleet.tend()
        pending = self._fleet.pending
        awaited = [*self._running, *pending]
        if not awaited:
            return []
        ready, _ = ray.wait(awaited, num_returns=1, timeout=timeout_s)
        if ready:  # take along whatever else is done by now
            ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        results = [each for ref in ready if ref in self._running for each in self._settled(ref)]
        self._fleet.advance([ref for ref in ready if ref in pending])
        results += self._cut_off()
        self._probe()
        return results

    def close(self) -> None:
        """Kill the workers."""
        self._is_closed = True
        self._fleet.close()
        self._running.clear()
        self._held = []
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)

    def _assignable(self) -> list[Seat]:
        return [seat for seat in self._fleet.idle if seat.node != self._probe_node]

    def _run(self, ref: Any, running: _Running) -> None:
        self._fleet.idle.remove(running.seat)
        self._running[ref] = running

    def _settled(self, ref: Any) -> Iterator[Result]:
        """Yield the result of a finished call, unless it still has to be probed."""
        running = self._running.pop(ref)
        try:
            served: Served = ray.get(ref)
        except RayError as error:
            self._fleet.lose(running.seat)
            yield failed(running.item, _lost(error))
            return
        self._fleet.give_back(running.seat, served.memory_bytes)
        result, ready = self._kept(served), running.seat.ready
        is_open = ready is not None and ready.needs_probe and not running.is_probe
        if is_open and isinstance(result, WorkResult) and result.evaluation is not None:
            self._held.append(result)
        else:
            yield result

    def _cut_off(self) -> list[Result]:
        """End what has run for too long."""
        limit, now = self._resources.trial_timeout_s, time.monotonic()
        late = [ref for ref, x in self._running.items() if now - x.started > limit]
        failure = Failure(FailureKind.TIMEOUT, f"no result within {limit:g} s (trial_timeout_s)")
        results = []
        for ref in late:
            running = self._running.pop(ref)
            self._fleet.lose(running.seat)
            results.append(failed(running.item, failure))
        return results

    def _probe(self) -> None:
        """Drain the node of the probe once enough is held, then measure one by one."""
        ready = self._fleet.ready
        if not self._held:
            self._probe_node = None
            return
        if self._probe_node is None or all(x.node != self._probe_node for x in ready):
            enough = len(self._held) >= _PROBE_BATCH_PER_WORKER * len(ready)
            if not enough and self._running:
                return
            self._probe_node = self._chosen_node(ready)
        if all(each.seat.node != self._probe_node for each in self._running.values()):
            here = [x for x in self._fleet.idle if x.node == self._probe_node]
            if here:
                held = self._held.pop(0)
                ref = here[0].actor.probe.remote(held.item, held.evaluation)
                self._run(ref, _Running(held.item, here[0], is_probe=True))

    def _chosen_node(self, ready: Sequence[Seat]) -> str | None:
        """Return a node with the kind of device that was measured on so far."""
        kinds = {seat.ready.device: seat.node for seat in ready if seat.ready is not None}
        if not kinds:
            return None
        self._probe_device = self._probe_device or min(kinds)
        if self._probe_device not in kinds:
            raise ExecutorError(
                f"UNSCHEDULABLE: this search measures on {self._probe_device!r}, and no worker "
                f"is on such a device any more: {sorted(kinds)}; figures of different devices "
                "are never compared: bring it back, or start a new run"
            )
        return kinds[self._probe_device]

    def _needed(self, item: WorkItem | TrainingItem, seat: Seat) -> Mapping[str, Any]:
        """Return the artifacts that an item speaks of, for a worker that cannot read them.

        Each is in a list of its own: Ray would fetch a bare reference before the call.
        """
        names = item.artifacts
        if self._files is None or not names or (seat.ready and seat.ready.sees_files):
            return {}
        # What the last item needed is kept: the next one often needs the same.
        self._sent = {
            name: self._sent.get(name) or ray.put(read_artifact(self._files, name))
            for name in names
        }
        return {name: [ref] for name, ref in self._sent.items()}

    def _kept(self, served: Served) -> Result:
        """Return a result once the artifacts that came with it are among the run's files."""
        try:
            for name, content in served.artifacts.items():
                assert self._files is not None, "artifacts come only where there is a directory"
                write_artifact(self._files, content, Path(name).suffix)
        except OSError as error:  # no room
            return failed(served.result.item, failure_of(error))
        return served.result


def _marked(files: Path) -> Path:
    """Leave a file in the run's directory by which workers tell whether they see it."""
    for old in files.glob(f"{_MARKER}*"):  # of a process that was killed
        old.unlink(missing_ok=True)
    marker = files / f"{_MARKER}{uuid.uuid4().hex}"
    marker.touch()
    return marker


def _lost(error: RayError) -> Failure:
    """Say why a call did not come back."""
    said = first_line(error)
    if isinstance(error, OutOfMemoryError):
        return Failure(FailureKind.OOM_HOST, said)
    if getattr(error, "preempted", False):
        return Failure(FailureKind.PREEMPTED, f"the worker's node was taken away: {said}")
    # A worker that dies while its node lives is reported dead at once; of one that cannot
    # even be asked for, or whose node is gone, the trial is not to blame.
    if isinstance(error, ActorUnavailableError | NodeDiedError) or "node has died" in str(error):
        return Failure(FailureKind.INFRA, f"the worker's node was lost: {said}")
    return Failure(FailureKind.CRASH, f"the worker process died: {said}")
