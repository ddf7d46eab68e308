"""Runs evaluations on Ray actors: warm, one item each, replaced when they die.

Metrics that need an exclusive process (latency) are measured in batches: finished items
are held back, the workers drain, and one idle worker measures all of them alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError

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
from autoprune.trial import Evaluation, Failure, FailureKind
from cluster.worker import Worker

# Finished items per worker that are held back before the workers drain for a probe.
_PROBE_BATCH_PER_WORKER = 4


@dataclass(frozen=True)
class Resources:
    """What the workers get: how many there are, GPUs each, and limits in seconds."""

    workers: int
    gpus_per_worker: float = 0.0
    trial_timeout_s: float = 600.0
    ready_timeout_s: float = 300.0


@dataclass
class _Running:
    item: WorkItem | TrainingItem
    actor: Any
    started: float = field(default_factory=time.monotonic)


class RayExecutor(Executor):
    """Owns its actors and, where Ray was not running in this process, Ray itself.

    Raises `ExecutorError` when no worker gets ready within the limit.
    """

    def __init__(
        self, spec: EvaluatorSpec, resources: Resources, address: str | None = None
    ) -> None:
        self._resources = resources
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(resources, address)
        self._spec = ray.put(spec)
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._held: list[tuple[WorkItem, Evaluation]] = []
        self._draining = False
        try:
            self._actors = [self._new_actor() for _ in range(resources.workers)]
            self._needs_probe = any([self._ready(actor) for actor in self._actors])
        except BaseException:
            self.close()
            raise
        self._idle = list(self._actors)

    @property
    def free(self) -> int:
        """Idle workers; none while the workers drain for an exclusive measurement."""
        return 0 if self._draining else len(self._idle)

    def submit(self, item: WorkItem | TrainingItem) -> None:
        """Start an item on an idle worker; raises `ExecutorError` if there is none."""
        if not self.free:
            raise ExecutorError("no free worker: call wait before the next submit")
        actor = self._idle.pop()
        call = actor.train if isinstance(item, TrainingItem) else actor.evaluate
        self._running[call.remote(item)] = _Running(item, actor)

    def wait(self, timeout_s: float) -> Sequence[Result]:
        """Return what finished, died or ran out of time within `timeout_s` seconds."""
        results = self._collected(timeout_s) if self._running else []
        if not self._needs_probe:
            return results
        done: list[Result] = []
        for each in results:
            if isinstance(each, WorkResult) and each.evaluation is not None:
                self._held.append((each.item, each.evaluation))
            else:
                done.append(each)
        enough = len(self._held) >= _PROBE_BATCH_PER_WORKER * len(self._actors)
        self._draining = bool(self._held) and (enough or self._draining or not self._running)
        if self._draining and not self._running:
            done += self._probed()
            self._draining = False
        return done

    def close(self) -> None:
        """Kill the workers and, if it was started here, Ray."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._idle, self._held = [], [], []
        self._running.clear()
        if self._owns_ray and ray.is_initialized():
            ray.shutdown()

    def _collected(self, timeout_s: float) -> list[Result]:
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if ready:  # take along whatever else is done by now
            ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        results = [self._result(ref) for ref in ready]
        now = time.monotonic()
        late = [
            ref
            for ref, running in self._running.items()
            if now - running.started > self._resources.trial_timeout_s
        ]
        return results + [self._cut_off(ref) for ref in late]

    def _result(self, ref: Any) -> Result:
        running = self._running.pop(ref)
        try:
            result: Result = ray.get(ref)
        except RayError as error:
            self._replace(running.actor)
            return failed(running.item, _lost(error))
        self._idle.append(running.actor)
        return result

    def _cut_off(self, ref: Any) -> Result:
        running = self._running.pop(ref)
        self._replace(running.actor)
        return failed(running.item, self._timeout())

    def _timeout(self) -> Failure:
        limit = self._resources.trial_timeout_s
        return Failure(FailureKind.TIMEOUT, f"no result within {limit:g} s (trial_timeout_s)")

    def _probed(self) -> list[Result]:
        """Measure the held items one after the other while nothing else runs."""
        held, self._held = self._held, []
        results: list[Result] = []
        for item, evaluation in held:
            actor = self._idle[0]
            try:
                ref = actor.probe.remote(item, evaluation)
                results.append(ray.get(ref, timeout=self._resources.trial_timeout_s))
            except RayError as error:
                self._idle.remove(actor)
                self._replace(actor)
                late = isinstance(error, GetTimeoutError)
                failure = self._timeout() if late else _lost(error)
                results.append(WorkResult(item, failure=failure))
        return results

    def _new_actor(self) -> Any:
        options = {
            "num_cpus": 1,
            "num_gpus": self._resources.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        return ray.remote(Worker).options(**options).remote(self._spec)

    def _ready(self, actor: Any) -> bool:
        limit = self._resources.ready_timeout_s
        try:
            needs_probe: bool = ray.get(actor.needs_probe.remote(), timeout=limit)
        except GetTimeoutError as error:
            raise ExecutorError(
                f"UNSCHEDULABLE: no worker was ready within {limit:g} s; asked for "
                f"{self._resources.workers} workers, the cluster has {ray.cluster_resources()}"
            ) from error
        except RayError as error:
            raise ExecutorError(f"a worker could not be started: {error}") from error
        return needs_probe

    def _replace(self, dead: Any) -> None:
        ray.kill(dead)
        self._actors.remove(dead)
        fresh = self._new_actor()
        self._ready(fresh)
        self._actors.append(fresh)
        self._idle.append(fresh)


def workers_for(wanted: Literal["auto"] | int, device: str, gpus_per_worker: float) -> int:
    """Return the number of workers: one per core that this process may use, or per GPU share."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        import torch

        return max(1, int(torch.cuda.device_count() / gpus_per_worker))
    return max(1, len(os.sched_getaffinity(0)))


def _start_ray(resources: Resources, address: str | None) -> None:
    # Usage reports would leave the machine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers without a GPU share keep their view of the devices, as Ray will do by default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {"num_cpus": resources.workers} if address is None else {}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level="ERROR",
            **local,
        )
    except Exception as error:
        where = f"at {address}" if address else "on this machine"
        raise ExecutorError(f"Ray could not be started {where}: {error}") from error


def _lost(error: RayError) -> Failure:
    if isinstance(error, OutOfMemoryError):
        return Failure(FailureKind.OOM_HOST, str(error))
    if isinstance(error, RayActorError):
        first = str(error).splitlines()[0] if str(error) else ""
        return Failure(FailureKind.CRASH, f"the worker process died: {first}")
    return Failure(FailureKind.CRASH, str(error))
