"""A search on a cluster of several nodes: what dies is replaced, and nothing is run twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.contracts.store import Event, EventKind
from autoprune.controller.progress import unwatched
from autoprune.errors import AutopruneError, RunError
from autoprune.run import Run
from autoprune.store.location import open_store, record_of
from autoprune.testing.evaluators import SCRIPTED, item
from autoprune.trial import TrialState
from autoprune.validation import validated
from cluster import session
from cluster.chaos import Chaos, strike
from cluster.conduct import conduct
from cluster.connection import NAMESPACE
from cluster.controller import follow, start
from cluster.executor import RayExecutor
from cluster.owner import this_process
from cluster.placement import Resources

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CLI = [sys.executable, "-m", "autoprune.cli.main"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for workers; tests bring their own nodes."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        # A node that is gone is known to be after some seconds instead of fifteen.
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 8}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        found = Cluster(initialize_head=True, head_node_args=head)
        ray.init(
            address=found.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR"
        )
        yield found
        ray.shutdown()
        found.shutdown()


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


def wait_until(is_met: Any, complaint: str, limit_s: float = 60.0) -> None:
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


@pytest.fixture
def job(digits_job: Mapping[str, Any]) -> dict[str, Any]:
    """Sixty trials of some tenths of a second each."""
    rung = {"repair_images": 400, "images": 300, "finetune_steps": 10}
    return {
        **digits_job,
        "searchers": ["random"],
        "baselines": {"searchers": []},
        "rungs": [rung],
        "budget": {"trials": 60},
        "resources": {"workers": "auto", "device": "cpu", "stall_timeout_s": 8},
    }


def trials_are(directory: Path, count: int) -> bool:
    try:
        return len(ended(directory)) >= count
    except AutopruneError:
        return False  # the run is still being made


def test_workers_and_controllers_that_are_killed_cost_no_finished_trial(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    with node(cluster, 2), Chaos({"worker": 3.0, "controller": 6.0}, most=4) as chaos:
        run = session.search(job, tmp_path / "run", address=cluster.address)
    assert run.history.close_reason == "finished"
    require_each_once(tmp_path / "run", 61)
    struck = Counter(each.kind for each in chaos.strikes)
    assert struck["controller"] >= 1
    assert struck["worker"] >= 1
    sessions = sum(each.kind is EventKind.OPENED for each in log_of(tmp_path / "run"))
    assert sessions >= 2
    assert (tmp_path / "run" / "report.html").exists()


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


def test_one_job_has_one_controller(cluster: Cluster, job: dict[str, Any], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    job["budget"] = {"trials": 400}
    with node(cluster, 2):
        name = start_detached(job, directory, cluster)
        wait_until(lambda: trials_are(directory, 3), "no 3 trials")
        with pytest.raises(RunError, match="is searching in"):
            conduct(directory, validated(job), this_process())
        assert start_detached(job, directory, cluster, resume=True) == name  # the same one
        path = tmp_path / "digits.yaml"
        path.write_text(yaml.safe_dump(job))
        command = [*CLI, "search", str(path), "--run", str(directory), "--resume"]
        command += ["--address", cluster.address]
        follower = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: trials_are(directory, 100), "no 100 trials")
        ray.get(ray.get_actor(name, NAMESPACE).stop.remote())
        _, errors = follower.communicate(timeout=60)
        assert follower.returncode == 1  # somebody else has ended what it followed
        assert "was interrupted" in errors
    assert Run.open(directory).history.close_reason == "interrupted"
    assert sum(x.kind is EventKind.OPENED for x in log_of(directory)) == 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_follows_a_search_can_stop_it(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path, sent: signal.Signals
) -> None:
    path, directory = tmp_path / "digits.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({**job, "budget": {"trials": 2000}}))
    command = [*CLI, "search", str(path), "--run", str(directory), "--address", cluster.address]
    with node(cluster, 2):
        follower = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: trials_are(directory, 5), "no 5 trials")
        follower.send_signal(sent)
        _, errors = follower.communicate(timeout=60)
        assert follower.returncode == 130, errors
        assert "--resume" in errors
        assert Run.open(directory).history.close_reason == "interrupted"


def test_a_search_outlives_its_terminal(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    path, directory = tmp_path / "digits.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(job))
    command = [*CLI, "search", str(path), "--run", str(directory), "--address", cluster.address]
    with node(cluster, 2):
        follower = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: trials_are(directory, 2), "no 2 trials")
        os.kill(follower.pid, signal.SIGKILL)
        follower.wait()
        again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    require_each_once(directory, 61)
    assert sum(each.kind is EventKind.OPENED for each in log_of(directory)) == 1


def test_chaos_finds_what_it_kills_and_nothing_else(cluster: Cluster) -> None:
    with node(cluster, 1):
        assert strike("controller", random.Random(0)) is None
        assert strike("worker", random.Random(0)) is None
        executor = RayExecutor(EvaluatorSpec(SCRIPTED), Resources(most=1))
        try:
            executor.submit(item(0, "sleep:60"))
            struck = strike("worker", random.Random(0))
            assert struck is not None
            wait_until(lambda: bool(executor.wait(0.2)), "the worker still lives")
        finally:
            executor.close()
        with pytest.raises(ValueError, match="worker, controller, node"):
            Chaos({"everything": 1.0})
    with node(cluster, 1):
        gone = strike("node", random.Random(0))
        assert gone is not None
        wait_until(lambda: room() == 0, "the node still lives")


def test_a_controller_that_cannot_work_says_so_and_goes(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    name = start(tmp_path / "elsewhere", validated(job))
    with pytest.raises(AutopruneError, match="does not see"):
        follow(name, tmp_path / "elsewhere", unwatched)
    wait_until(lambda: is_gone(name), "the controller stays")


def test_a_stop_counts_also_while_the_job_is_loaded(
    cluster: Cluster, job: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    with node(cluster, 2):
        name = start_detached({**job, "budget": {"trials": 5000}}, directory, cluster)
        ray.get(ray.get_actor(name, NAMESPACE).stop.remote())  # its loop is not there yet
        wait_until(lambda: is_closed(directory), "it does not stop")
    assert Run.open(directory).history.close_reason == "interrupted"
    assert len(ended(directory)) < 5


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
