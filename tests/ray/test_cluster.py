"""A search on a cluster of several nodes: what dies is replaced, and nothing is run twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.contracts.store import EventKind
from autoprune.errors import AutopruneError
from autoprune.run import Run
from autoprune.testing.evaluators import SCRIPTED, item
from cluster import session
from cluster.chaos import Chaos
from cluster.executor import RayExecutor
from cluster.placement import Resources
from tests.ray.nodes import (
    ended,
    is_closed,
    log_of,
    node,
    require_each_once,
    start_detached,
    trials_are,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def test_workers_and_controllers_that_are_killed_cost_no_finished_trial(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    with node(cluster, 2), Chaos({"worker": 3.0, "controller": 6.0}, most=2) as chaos:
        run = session.search(job, tmp_path / "run", address=cluster.address)
    assert run.history.close_reason == "finished"
    require_each_once(tmp_path / "run", 61)
    struck = Counter(each.kind for each in chaos.strikes)
    assert struck["controller"] >= 1
    assert struck["worker"] >= 1
    assert max(struck.values()) <= 2
    sessions = sum(each.kind is EventKind.OPENED for each in log_of(tmp_path / "run"))
    assert sessions >= 2
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_a_node_that_vanishes_is_no_fault_of_its_trials(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    job["budget"] = {"trials": 150}
    with node(cluster, 1), node(cluster, 1) as lost:
        job["resources"]["min_workers"] = 2
        started = start_detached(job, directory, cluster)
        wait_until(lambda: trials_are(directory, 20), "no 20 trials")
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: is_closed(directory), "the search does not end", 120)
    require_each_once(directory, 151)
    losses = [x for x in log_of(directory) if x.kind is EventKind.RETRIED]
    assert [x.body["failure"]["kind"] for x in losses] == ["INFRA"]
    assert Run.open(directory).history.trials[losses[0].trial or 0].attempts == 1
    assert started


@pytest.mark.slow
def test_a_search_without_room_says_so_and_goes_on_when_there_is_some(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    with node(cluster, 2) as lost:
        start_detached(job, directory, cluster)
        wait_until(lambda: trials_are(directory, 5), "no 5 trials")
        cluster.remove_node(lost, allow_graceful=False)
        wait_until(lambda: is_closed(directory), "the search hangs")
    history = Run.open(directory).history
    assert history.close_reason == "stalled"
    assert "UNSCHEDULABLE" in history.close_detail
    before = ended(directory)
    with pytest.raises(AutopruneError, match="UNSCHEDULABLE"):
        session.search(job, directory, resume=True, address=cluster.address)
    with node(cluster, 2):
        session.search(job, directory, resume=True, address=cluster.address)
    require_each_once(directory, 61)
    assert before.keys() <= ended(directory).keys()


def test_workers_follow_the_cluster_and_keep_to_their_labels(cluster: Cluster) -> None:
    resources = Resources(labels={"kind": "mine"})
    with node(cluster, 1, kind="mine"), node(cluster, 2):
        executor = RayExecutor(EvaluatorSpec(SCRIPTED), resources)
        try:
            assert executor.free == 1
            with node(cluster, 2, kind="mine") as added:
                wait_until(lambda: free_after_wait(executor) == 3, "the fleet did not grow")
                cluster.remove_node(added, allow_graceful=False)
            for number in range(executor.free):
                executor.submit(item(number))
            wait_until(lambda: free_after_wait(executor) == 1, "the fleet did not shrink")
        finally:
            executor.close()


def free_after_wait(executor: RayExecutor) -> int:
    executor.wait(0.2)
    return executor.free


def test_a_probe_empties_its_own_node_only(cluster: Cluster, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    spec = EvaluatorSpec(SCRIPTED, {"probes": True, "journal": str(journal)})
    with node(cluster, 2), node(cluster, 2):
        executor = RayExecutor(spec, Resources(fewest=4, most=4))
        try:
            results, number = [], 0
            while len(results) < 40:
                while executor.free and number < 40:
                    executor.submit(item(number, "sleep:0.1"))
                    number += 1
                results += executor.wait(0.2)
        finally:
            executor.close()
    assert all("latency_ms" in x.evaluation.measurements for x in results)  # type: ignore[union-attr]
    lines = [line.split() for line in journal.read_text().splitlines()]
    spans = [(what, float(a), float(b), where) for what, a, b, where in lines]
    probes = [each for each in spans if each[0] == "probe"]
    assert len(probes) == 40
    assert len({each[3] for each in probes}) == 1
    beside = Counter(
        other[3]
        for probe in probes
        for other in spans
        if other is not probe and other[1] < probe[2] and other[2] > probe[1]
    )
    assert beside[probes[0][3]] == 0  # nothing on its own node …
    assert sum(beside.values()) > 0  # … while the other one goes on
