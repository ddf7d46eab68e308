"""A cluster of several nodes on this machine, and searches on it, for tests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from autoprune.contracts.store import Event, EventKind
from autoprune.errors import AutopruneError
from autoprune.run import Run
from autoprune.store.location import open_store, record_of
from autoprune.trial import TrialState
from autoprune.validation import validated
from cluster import session
from cluster.connection import NAMESPACE
from cluster.controller import start


@contextmanager
def node(cluster: Cluster, cpus: int, **labels: str) -> Iterator[Any]:
    """Add a node to the cluster for a while; it may be gone before."""
    added = cluster.add_node(num_cpus=cpus, labels=labels, include_dashboard=False)
    try:
        yield added
    finally:
        if added in cluster.list_all_nodes():
            cluster.remove_node(added, allow_graceful=False)
        wait_until(lambda: room() == sum_cpus(cluster), "the node is still counted")


def room() -> float:
    return sum(x["Resources"].get("CPU", 0) for x in ray.nodes() if x["Alive"])


def sum_cpus(cluster: Cluster) -> float:
    return sum(each.get_resource_and_label_spec().num_cpus for each in cluster.list_all_nodes())


def wait_until(is_met: Any, complaint: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not is_met():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)


def log_of(directory: Path) -> list[Event]:
    with open_store(directory, read_only=True) as store:
        return list(store.events(record_of(directory, store).name))


def ended(directory: Path) -> Counter[int | None]:
    """Count the terminal events of every trial."""
    return Counter(x.trial for x in log_of(directory) if x.kind.name in TrialState.__members__)


def require_each_once(directory: Path, trials: int) -> None:
    asked = [x.trial for x in log_of(directory) if x.kind is EventKind.ASKED]
    assert len(asked) == trials
    assert ended(directory) == Counter(asked)


def trials_are(directory: Path, count: int) -> bool:
    try:
        return len(ended(directory)) >= count
    except AutopruneError:
        return False  # the run is still being made


def is_gone(name: str) -> bool:
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return True
    return False


def start_detached(
    job: dict[str, Any], directory: Path, cluster: Cluster, *, resume: bool = False
) -> str:
    """Start a search, or find it, and return the name of its controller."""
    session.search(job, directory, address=cluster.address, detach=True, resume=resume)
    return start(directory, validated(job))


def is_closed(directory: Path) -> bool:
    return Run.open(directory).history.close_reason is not None
