"""Controllers on a cluster: one per job, followed, stopped, and outliving who started them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from autoprune.contracts.executor import EvaluatorSpec
from autoprune.contracts.store import EventKind
from autoprune.controller.progress import unwatched
from autoprune.errors import AutopruneError, RunError
from autoprune.run import Run
from autoprune.testing.evaluators import SCRIPTED, item
from autoprune.validation import validated
from cluster.chaos import Chaos, strike
from cluster.conduct import conduct
from cluster.connection import NAMESPACE
from cluster.controller import follow, start
from cluster.executor import RayExecutor
from cluster.owner import this_process
from cluster.placement import Resources
from tests.ray.nodes import (
    ended,
    is_closed,
    is_gone,
    log_of,
    node,
    require_each_once,
    room,
    start_detached,
    trials_are,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CLI = [sys.executable, "-m", "autoprune.cli.main"]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
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


@pytest.mark.slow
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
