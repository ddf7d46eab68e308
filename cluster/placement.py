"""How many workers fit on the nodes of a cluster, and what each of them asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.job.spec import ResourceSpec

_GIB = 2**30


@dataclass(frozen=True)
class Resources:
    """What workers get, how many there may be, and limits in seconds.

    `fewest` workers must be ready before a search starts; there are never more than `most`
    (None: as many as there is room for). A worker is replaced after `recycle_after` items.
    No worker at all for `stall_s` ends the search; `ready_s` is what building an evaluator
    may take.
    """

    fewest: int = 1
    most: int | None = None
    gpus_per_worker: float = 0.0
    memory_bytes: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    trial_timeout_s: float = 600.0
    recycle_after: int = 1000
    stall_s: float = 45.0
    ready_s: float = 300.0

    @classmethod
    def of(cls, spec: ResourceSpec, device: str) -> Resources:
        """Return what a job asks for when its evaluations run on `device` (cpu or cuda)."""
        memory = spec.memory_gb_per_worker
        fixed = spec.workers if isinstance(spec.workers, int) else None
        return cls(
            fewest=fixed or spec.min_workers,
            most=fixed or spec.max_workers,
            gpus_per_worker=spec.gpus_per_worker if device == "cuda" else 0.0,
            memory_bytes=None if memory is None else int(memory * _GIB),
            labels=spec.labels,
            trial_timeout_s=spec.trial_timeout_s,
            recycle_after=spec.recycle_after,
            stall_s=spec.stall_timeout_s,
        )

    def options(self) -> dict[str, Any]:
        """Return the options of a worker's actor: restarted by us alone."""
        return {
            "num_cpus": 1,
            "num_gpus": self.gpus_per_worker,
            "memory": self.memory_bytes,
            "label_selector": dict(self.labels),
            "max_restarts": 0,
            "max_task_retries": 0,
        }

    def wanted(self, nodes: Iterable[Mapping[str, Any]]) -> int:
        """Return how many workers to ask for on a cluster, given `ray.nodes()`.

        Up to `most` also where there is no room yet: a cluster that can grow then does.
        """
        room = sum(self._room(node) for node in nodes if node["Alive"])
        return max(self.fewest, room if self.most is None else self.most)

    def _room(self, node: Mapping[str, Any]) -> int:
        """Return how many workers a node has room for if nothing else runs there."""
        if any(node["Labels"].get(key) != value for key, value in self.labels.items()):
            return 0
        has: Mapping[str, float] = node["Resources"]
        rooms = [has.get("CPU", 0.0)]
        if self.gpus_per_worker > 0:
            rooms.append(has.get("GPU", 0.0) / self.gpus_per_worker)
        if self.memory_bytes is not None:
            rooms.append(has.get("memory", 0.0) / self.memory_bytes)
        # The tiny addend keeps 0.3 / 0.1 at 3, where the quotient is 2.9999999999999996.
        return min(math.floor(room + 1e-9) for room in rooms)
