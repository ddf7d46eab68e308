"""Chaos: kill -9 what a search needs, on a schedule, while it runs.

    with Chaos({"worker": 5.0, "controller": 20.0}):          # seconds between two strikes
        search("job.yaml", address="auto")

    python -m cluster.chaos --address auto --kill worker=5 --kill node=60 --seconds 300

Strikes at whatever belongs to a search of autoprune on the cluster: `worker` a process that
evaluates, `controller` one that conducts, `node` all of a node but the head's. Nothing of
Ray's own is spared on a node that is struck. For clusters that are there to be tested.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psutil
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connection import connected

# What Ray calls the processes of our actors.
_TITLES = {"worker": "ray::EvaluationWorker", "controller": "ray::SearchController"}
KINDS = (*_TITLES, "node")
_HEAD = "node:__internal_head__"
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Strike:
    """What was killed: a process of `kind` on a node, at a Unix time in seconds."""

    kind: str
    node: str
    pid: int
    time: float


class Chaos:
    """Strikes in the background while its `with` block runs.

    `every_s` maps kinds to the seconds between two strikes; with `jitter` the instants are
    drawn around them, so that they do not march in step with the search. No kind is struck
    more than `most` times. Every strike is in `strikes`. This process must be connected to
    the cluster.
    """

    def __init__(
        self,
        every_s: Mapping[str, float],
        *,
        seed: int = 0,
        jitter: bool = False,
        most: int | None = None,
    ) -> None:
        unknown = sorted(set(every_s) - set(KINDS))
        if not every_s or unknown or any(each <= 0 for each in every_s.values()):
            raise ValueError(f"every_s maps {', '.join(KINDS)} to seconds, given: {dict(every_s)}")
        self.strikes: list[Strike] = []
        self._every_s = dict(every_s)
        self._rng = random.Random(seed)
        self._striker = _Striker(self._rng)
        self._jitter = jitter
        self._most = most
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _work(self) -> None:
        due = {kind: time.monotonic() + self._pause(kind) for kind in self._every_s}
        while due:
            kind = min(due, key=lambda each: due[each])
            if self._is_over.wait(max(0.0, due[kind] - time.monotonic())):
                return
            due[kind] = time.monotonic() + self._pause(kind)
            with suppress(RayError):  # a node that is just dying cannot be searched
                struck = self._striker.strike(kind)
                if struck is not None:
                    self.strikes.append(struck)
            if sum(each.kind == kind for each in self.strikes) == self._most:
                del due[kind]

    def _pause(self, kind: str) -> float:
        return self._every_s[kind] * (self._rng.uniform(0.2, 1.8) if self._jitter else 1.0)


def strike(kind: str, rng: random.Random) -> Strike | None:
    """Kill one process, or all of one node; return what was struck, None if nothing was there."""
    return _Striker(rng).strike(kind)


class _Striker:
    """Kills through an agent on each node, which is started once and takes no room there."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._agents: dict[str, Any] = {}

    def strike(self, kind: str) -> Strike | None:
        victims = list(self._victims(kind))
        if not victims:
            return None
        node, pid = self._rng.choice(victims)
        agent = self._agent(node)
        if kind == "node":
            with suppress(ActorDiedError, ActorUnavailableError):  # it may die before it answers
                ray.get(agent.kill_node.remote(), timeout=_PATIENCE_S)
        else:
            ray.get(agent.kill.remote(pid), timeout=_PATIENCE_S)
        return Strike(kind, node, pid, time.time())

    def _victims(self, kind: str) -> Iterator[tuple[str, int]]:
        """Yield node and process id of everything of a kind."""
        for each in ray.nodes():
            node = each["NodeID"]
            if not each["Alive"]:
                self._agents.pop(node, None)
            elif kind != "node":
                with suppress(RayError):  # a node that is just dying
                    call = self._agent(node).pids.remote(_TITLES[kind])
                    yield from ((node, pid) for pid in ray.get(call, timeout=_PATIENCE_S))
            elif _HEAD not in each["Resources"]:
                yield node, 0

    def _agent(self, node: str) -> Any:
        if node not in self._agents:
            where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            agent = ray.remote(_Agent).options(num_cpus=0, scheduling_strategy=where)
            self._agents[node] = agent.remote()
        return self._agents[node]


class _Agent:
    """Finds and kills processes of the node that it runs on."""

    def pids(self, title: str) -> list[int]:
        """Return the processes of this node whose title begins with `title`."""
        found = []
        for process in psutil.Process(os.getppid()).children():
            with suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith(title):
                    found.append(process.pid)
        return found

    def kill(self, pid: int) -> None:
        """Kill one process."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_node(self) -> None:
        """Kill Ray's process on this node and all that it started, without a word to anybody."""
        raylet = psutil.Process(os.getppid())
        pids = [raylet.pid, *(each.pid for each in raylet.children(recursive=True))]
        # The blow comes after this call has come back, from a process that is nobody's child:
        # Ray ends those of an actor with it.
        command = f"sleep 0.2; kill -9 {' '.join(map(str, pids))}"
        subprocess.run(["setsid", "--fork", "sh", "-c", command], check=True)


def main() -> None:
    """Strike at a cluster for some time, and print every strike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="auto")
    parser.add_argument(
        "--kill", action="append", required=True, metavar="KIND=SECONDS", help=", ".join(KINDS)
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jitter", action="store_true")
    options = parser.parse_args()
    try:
        every_s = {each.partition("=")[0]: float(each.partition("=")[2]) for each in options.kill}
        chaos = Chaos(every_s, seed=options.seed, jitter=options.jitter)
    except ValueError as error:
        sys.exit(f"--kill: {error}")
    with connected(options.address), chaos:
        time.sleep(options.seconds)
    for each in chaos.strikes:
        print(f"{each.time:.1f} {each.kind} {each.pid} on {each.node}")


if __name__ == "__main__":
    main()
