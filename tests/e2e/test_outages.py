"""A search whose storage goes away pauses, comes back by itself, and has lost nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import autoprune
from autoprune.contracts.store import Event, EventKind
from autoprune.errors import AutopruneError, RunError
from autoprune.run import Run
from autoprune.store.location import open_store, record_of
from autoprune.trial import TrialState
from tests.postgres import Server, shared_server

# They wait for a storage to go and to come back.
pytestmark = pytest.mark.slow

CLI = [sys.executable, "-m", "autoprune.cli.main"]


def log_of(directory: Path) -> list[Event]:
    with open_store(directory, read_only=True) as store:
        return list(store.events(record_of(directory, store).name))


def finished(directory: Path) -> int:
    try:
        return sum(each.kind is EventKind.COMPLETED for each in log_of(directory))
    except AutopruneError:
        return 0  # the run is still being made, or its store is away


def wait_until(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not is_met():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def require_each_once(directory: Path) -> None:
    events = log_of(directory)
    asked = [x.trial for x in events if x.kind is EventKind.ASKED]
    ended = Counter(x.trial for x in events if x.kind.name in TrialState.__members__)
    assert ended == Counter(asked)
    assert Run.open(directory).history.close_reason == "finished"


@pytest.fixture
def job_file(digits_job: Mapping[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "digits.yaml"
    rung = {"repair_images": 400, "images": 300, "finetune_steps": 3}
    job = {**digits_job, "searchers": ["random"], "rungs": [rung], "budget": {"trials": 60}}
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture
def server() -> Iterator[Server]:
    found = shared_server()
    yield found
    if not is_up(found):
        found.start()


def is_up(server: Server) -> bool:
    try:
        server.run_sql("postgres", "SELECT 1")
    except AssertionError:
        return False
    return True


def test_a_search_outlives_its_postgresql(job_file: Path, tmp_path: Path, server: Server) -> None:
    directory, url = tmp_path / "run", server.new_database()
    command = [*CLI, "search", str(job_file), "--run", str(directory), "--store", url]
    search = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: finished(directory) >= 10)
    server.stop("immediate")
    time.sleep(2.0)
    assert search.poll() is None
    server.start()
    before = finished(directory)
    wait_until(lambda: finished(directory) >= before + 5)
    server.cut_connections(url)
    _, errors = search.communicate(timeout=120)
    assert search.returncode == 0, errors
    assert "paused" in errors
    require_each_once(directory)
    assert not (directory / "store.sqlite").exists()
    # The same commands read it, and another job of the same database is another run.
    subprocess.run([*CLI, "doctor", str(directory)], check=True, capture_output=True)
    other = yaml.safe_load(job_file.read_text()) | {"name": "other", "budget": {"trials": 2}}
    assert autoprune.search(other, tmp_path / "other", store=url).job.name == "other"
    assert Run.open(directory).job.name == "digits"


def test_a_full_disk_pauses_a_search(job_file: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    command = [*CLI, "search", str(job_file), "--run", str(directory)]
    search = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_ignore_xfsz)
    wait_until(lambda: finished(directory) >= 10)
    # No file of the process may grow beyond what the log has by now.
    size = sum(x.stat().st_size for x in directory.glob("store.sqlite*"))
    resource.prlimit(search.pid, resource.RLIMIT_FSIZE, (size // 4, resource.RLIM_INFINITY))
    time.sleep(4.0)
    held = finished(directory)
    assert search.poll() is None
    assert held < 60
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(search.pid, resource.RLIMIT_FSIZE, unlimited)
    _, errors = search.communicate(timeout=120)
    assert search.returncode == 0, errors
    assert "paused" in errors
    require_each_once(directory)


def _ignore_xfsz() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_two_searches_never_share_a_run(job_file: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    command = [*CLI, "search", str(job_file), "--run", str(directory)]
    first = subprocess.Popen([*command, "--set", "budget.trials=5000"], stderr=subprocess.DEVNULL)
    wait_until(lambda: finished(directory) >= 3)
    job = yaml.safe_load(job_file.read_text())
    with pytest.raises(RunError, match=f"process {first.pid} on .* is searching in"):
        autoprune.search(job, directory, resume=True)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    autoprune.search(job, directory, resume=True)  # the dead one is replaced at once
    require_each_once(directory)
