"""Searches under fire: what is killed, what it costs, and what is lost (nothing).

    python -m benchmarks.chaos [workers] [controllers] [tree] [nodes] [soak]

Real searches of ResNet-20 on CIFAR-10 over a cluster of Ray nodes on this machine. An
objective writes a line whenever an evaluation ends, so that what was run can be compared with
what the log acknowledged. `tree` does the same to Ray Tune.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.cluster_utils import Cluster

from autoprune.contracts.objective import Subject
from autoprune.contracts.store import Event, EventKind
from autoprune.controller.loop import SearchLoop
from autoprune.controller.problem import problem_of
from autoprune.controller.state import JobState, resumed
from autoprune.errors import AutopruneError
from autoprune.objectives.error import Error
from autoprune.run import Run
from autoprune.store.location import open_store, record_of
from autoprune.store.sql import SqlStore
from autoprune.trial import Measurement, TrialState
from benchmarks.controller import Harness, noop_job, resnet20_job
from benchmarks.tune_restore import tune_figures
from cluster import session
from cluster.chaos import Chaos
from cluster.connection import NAMESPACE, connected
from cluster.executor import RayExecutor
from cluster.placement import Resources

TRIALS = 200


class JournalledError(Error):
    """The error, and a line in a file for every evaluation that ends."""

    def __init__(self, *, path: str) -> None:
        self.path = path

    def measure(self, subject: Subject) -> Measurement:
        """Return the error; write when, and of which network."""
        with open(self.path, "a") as file:
            file.write(f"{time.time()} {subject.costs.macs} {subject.costs.params}\n")
        return super().measure(subject)


class Trace:
    """A run and the journal of its evaluations."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "run"
        self.journal = directory / "journal"

    def job(self, trials: int, **resources: Any) -> dict[str, Any]:
        """Return a job that writes the journal."""
        body = resnet20_job(trials).to_json()
        error = {"name": "benchmarks.chaos:JournalledError", "path": str(self.journal)}
        return {**body, "objectives": [error, "macs"], "resources": resources}

    def events(self) -> list[Event]:
        """Return the log."""
        with open_store(self.directory, read_only=True) as store:
            return list(store.events(record_of(self.directory, store).name))

    def completed(self) -> int:
        """Return how many trials the log acknowledges; none while there is no log."""
        with suppress(AutopruneError):
            return sum(x.kind is EventKind.COMPLETED for x in self.events())
        return 0

    def figures(self) -> dict[str, Any]:
        """Compare what ran with what was acknowledged."""
        events = self.events()
        run = Run.open(self.directory)
        ended = {x.trial: x.time for x in events if x.kind.name in TrialState.__members__}
        searched = max(ended.values())  # what runs later is the report split
        costs = run.graph.costs
        by_cost: dict[tuple[int, int], list[float]] = {}
        for trial in run.history.trials.values():
            found = costs.costs(trial.policy)
            by_cost.setdefault((found.macs, found.params), []).append(ended[trial.number])
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        runs = [(float(t), (int(m), int(p))) for t, m, p in lines if float(t) <= searched]
        again = sum(t > max(by_cost[key]) + 0.5 for t, key in runs)
        states = [str(x.state) for x in run.history.trials.values()]
        return {
            "trials": len(states),
            "terminal": sum(x.kind.name in TrialState.__members__ for x in events),
            "completed": states.count("COMPLETED"),
            "failed": states.count("FAILED"),
            "retried": sum(x.kind is EventKind.RETRIED for x in events),
            "sessions": sum(x.kind is EventKind.OPENED for x in events),
            "evaluations": len(runs),
            "run_after_acknowledgement": again,
            "wall_s": events[-1].time - events[0].time,
        }


@contextmanager
def cluster(*cpus: int) -> Iterator[Cluster]:
    """Start a head without workers and nodes with so many CPUs; this process is connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for each in cpus:
            started.add_node(num_cpus=each, include_dashboard=False)
        ray.init(
            address=started.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR"
        )
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@contextmanager
def trace() -> Iterator[Trace]:
    """Give an empty place for a run."""
    with tempfile.TemporaryDirectory() as directory:
        yield Trace(Path(directory))


def workers() -> Iterator[dict[str, Any]]:
    """Kill a worker every five seconds."""
    clean = None
    for every in ({}, {"worker": 5.0}):
        with cluster(2) as started, trace() as found:
            with _struck(every) as chaos:
                session.search(found.job(TRIALS), found.directory, address=started.address)
            figures = found.figures()
        clean = clean or figures["wall_s"]
        strikes = len(chaos.strikes) if chaos else 0
        yield {"kills": strikes, **figures, "against_clean": figures["wall_s"] / clean}


@contextmanager
def _struck(every: Mapping[str, float], **options: Any) -> Iterator[Chaos | None]:
    if not every:
        yield None
        return
    with Chaos(every, **options) as chaos:
        yield chaos


def controllers() -> Iterator[dict[str, Any]]:
    """Kill the controller ten times at random instants."""
    with cluster(2) as started, trace() as found:
        with Chaos({"controller": 14.0}, jitter=True, most=10) as chaos:
            session.search(found.job(2 * TRIALS), found.directory, address=started.address)
        events, figures = found.events(), found.figures()
    opened = [x.time for x in events if x.kind is EventKind.OPENED]
    ended = [x.time for x in events if x.kind is EventKind.COMPLETED]
    struck = [x.time for x in chaos.strikes]
    yield {
        "kills": len(chaos.strikes),
        **figures,
        "re_runs": figures["evaluations"] - figures["completed"],
        "log_open_after_s": max(_next(opened, each) - each for each in struck),
        "first_result_after_s": max(_next(ended, each + 0.5) - each for each in struck),
    }


def _next(times: list[float], after: float) -> float:
    return min((each for each in times if each > after), default=after)


def tree() -> Iterator[dict[str, Any]]:
    """Kill everything half-way, go on, and count what was evaluated twice; Ray Tune likewise."""
    with trace() as found:
        path = found.directory.parent / "job.yaml"
        path.write_text(yaml.safe_dump(found.job(60, workers=2)))
        command = [sys.executable, "-m", "autoprune.cli.main", "search", str(path)]
        command += ["--run", str(found.directory)]
        _killed_half_way(command, lambda: found.completed() >= 30)
        before = found.completed()
        start = time.time()
        subprocess.run([*command, "--resume"], check=True, capture_output=True)
        opened = [x.time for x in found.events() if x.kind is EventKind.OPENED]
        yield {
            "tool": "autoprune",
            "finished_before_the_kill": before,
            **found.figures(),
            "log_open_after_s": _next(opened, start) - start,
        }
    yield {"tool": "Ray Tune", **tune_figures(_killed_half_way)}


def _killed_half_way(command: list[str], is_half_way: Callable[[], bool]) -> None:
    """Start a command, wait, and kill -9 it with everything that it started."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not is_half_way():
        assert time.monotonic() < deadline, "half-way was never reached"
        time.sleep(0.2)
    root = psutil.Process(process.pid)
    everything = [root, *root.children(recursive=True)]
    for each in everything:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    process.wait()


def nodes() -> Iterator[dict[str, Any]]:
    """Take a node away without warning; then the last one."""
    with cluster(1, 1) as started, trace() as found:
        job = found.job(150, min_workers=2)
        session.search(job, found.directory, address=started.address, detach=True)
        _wait(lambda: found.completed() >= 40)
        first = time.time()
        started.remove_node(started.list_all_nodes()[-1], allow_graceful=False)
        _wait(lambda: found.completed() >= 100)
        last = time.time()
        times = [first, *(x.time for x in found.events() if first < x.time < last)]
        stall = max(later - earlier for earlier, later in itertools.pairwise(times))
        gone = time.time()
        started.remove_node(started.list_all_nodes()[-1], allow_graceful=False)
        _wait(lambda: Run.open(found.directory).history.close_reason is not None)
        history = Run.open(found.directory).history
        yield {
            "longest_stall_s": stall,
            "end": history.close_reason,
            "detail": history.close_detail[:160],
            "after_s": time.time() - gone,
        }


def _wait(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not is_met():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def soak() -> Iterator[dict[str, Any]]:
    """Run 20,000 no-op trials over Ray; what the controller grows by, and a restart."""
    harness, job = Harness(), noop_job(20_000)
    problem = problem_of(job, harness.preparation)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.sqlite"
        start = time.perf_counter()
        with SqlStore(path) as store, connected(None, 2):
            store.create_job(job.name, {})
            state = JobState(job, harness.preparation, problem)
            sizes = _soaked(state, store, harness)
        wall = time.perf_counter() - start
        with SqlStore(path) as store:
            start = time.perf_counter()
            again = resumed(store, job, harness.preparation, problem)
            restart = time.perf_counter() - start
        assert again.history.digest() == state.history.digest()
    yield {
        "trials": state.history.next_number,
        "per_second": state.history.next_number / wall,
        "mb_at_1000": sizes[0] / 2**20,
        "mb_at_20000": sizes[-1] / 2**20,
        "growth": sizes[-1] / sizes[0] - 1,
        "restart_s": restart,
    }


def _soaked(state: JobState, store: SqlStore, harness: Harness) -> list[int]:
    """Search; return the bytes of memory of this process after every thousand trials."""
    sizes: list[int] = []

    def watch(_: Any) -> None:
        if state.history.next_number >= 1000 * (len(sizes) + 1):
            sizes.append(psutil.Process().memory_info().rss)

    resources = Resources(fewest=2, most=2)
    SearchLoop(state, store, lambda: RayExecutor(harness.spec, resources), watcher=watch).run()
    return sizes


_FAULTS = {each.__name__: each for each in (workers, controllers, tree, nodes, soak)}


def main() -> None:
    """Print the figures of every fault as JSON, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", choices=[[], *_FAULTS], default=list(_FAULTS))
    for name in parser.parse_args().faults:
        for figures in _FAULTS[name]():
            rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
            print(json.dumps({"fault": name, **rounded}), flush=True)


if __name__ == "__main__":
    main()
