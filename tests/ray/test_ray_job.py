"""A job submitted to a real Ray cluster searches there; what cannot work is refused here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from autoprune.errors import AutopruneError, ExecutorError, InputError, JobError
from autoprune.run import Run
from cluster.ray_job import cluster_job, submit

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
_BIN = Path(sys.executable).parent
_NOWHERE = "http://127.0.0.1:9"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(dashboard: str) -> bool:
    try:
        JobSubmissionClient(dashboard).list_jobs()
    except (OSError, RuntimeError):
        return False
    return True


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a cluster with two CPUs, in processes of its own."""
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: sockets lie below it
    dashboard_port, agent_port = _free_ports(2)
    command = [
        str(_BIN / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}", "--object-store-memory=100000000",
        f"--temp-dir={place}", "--disable-usage-stats",
    ]  # fmt: skip
    environment = {
        **os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    with (Path(place) / "output").open("wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{dashboard_port}"
    try:
        until = time.monotonic() + 90
        while not _answers(address):
            assert head.poll() is None, (Path(place) / "output").read_text()
            assert time.monotonic() < until, (Path(place) / "output").read_text()
            time.sleep(0.5)
        yield address
    finally:
        started = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        psutil.wait_procs([psutil.Process(head.pid), *started], timeout=20)
        for each in started:
            if each.is_running():
                each.kill()
        head.kill()
        head.wait()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def job(digits_job: Mapping[str, Any]) -> Mapping[str, Any]:
    """A small search with one worker."""
    resources = {"workers": 1, "device": "cpu"}
    return {**digits_job, "searchers": ["nsga2"], "resources": resources}


def _written(job: Mapping[str, Any], directory: Path) -> Path:
    path = directory / "digits.yaml"
    path.write_text(yaml.safe_dump(dict(job)), encoding="utf-8")
    return path


def _end(client: JobSubmissionClient, submission: str) -> JobStatus:
    until = time.monotonic() + 240
    while not (status := client.get_job_status(submission)).is_terminal():
        assert time.monotonic() < until, client.get_job_logs(submission)
        time.sleep(0.5)
    return status


@pytest.mark.slow
def test_a_submitted_job_searches_on_the_cluster(
    dashboard: str, job: Mapping[str, Any], tmp_path: Path
) -> None:
    path = _written(job, tmp_path)
    run = tmp_path / "the run"  # a space, so that quoting matters
    command = [
        str(_BIN / "autoprune"), "submit", str(path), "--via-ray-job", dashboard, "--run", str(run),
        "--set", "budget.trials=4", "--format", "json",
    ]  # fmt: skip
    told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=90).stdout)
    first = told["submission_id"]
    assert told == {"submission_id": first, "dashboard": dashboard, "run": str(run)}
    client = JobSubmissionClient(dashboard)
    with pytest.raises(InputError, match=f"{first} is .* already"):
        submit(path, dashboard, str(run))
    assert _end(client, first) is JobStatus.SUCCEEDED, client.get_job_logs(first)
    done = Run.open(run)
    assert done.front().members
    assert done.job.budget.trials == 4

    # With a larger budget it goes on; the next number is that of the same run's directory.
    again = submit(path, dashboard, f"{run}/", overrides=["budget.trials=6"], resume=True)
    assert first.removesuffix("-1") == again.removesuffix("-2")
    assert _end(client, again) is JobStatus.SUCCEEDED, client.get_job_logs(again)
    assert len(Run.open(run).completed()) > len(done.completed())


@pytest.mark.slow
def test_stopping_the_submission_interrupts_the_search(
    dashboard: str, job: Mapping[str, Any], tmp_path: Path
) -> None:
    run, client = tmp_path / "run", JobSubmissionClient(dashboard)
    path = _written(job, tmp_path)
    submission = submit(path, dashboard, str(run), overrides=["budget.trials=100000"])

    def await_run(is_so: Callable[[Run], bool]) -> None:
        until = time.monotonic() + 90
        while True:
            with suppress(AutopruneError):  # not there yet, or only half
                if is_so(Run.open(run)):
                    return
            assert time.monotonic() < until, client.get_job_logs(submission)
            time.sleep(0.5)

    await_run(lambda opened: len(opened.completed()) > 3)
    client.stop_job(submission)
    assert _end(client, submission) is JobStatus.STOPPED
    await_run(lambda opened: opened.history.close_reason == "interrupted")


def test_the_entrypoint_is_what_the_cluster_runs(
    dashboard: str, job: Mapping[str, Any], tmp_path: Path
) -> None:
    store = "postgresql://someone@db:5432/runs?sslmode=require"
    path = _written(job, tmp_path)
    submission = submit(path, dashboard, "/no such place/$HOME", store=store)
    details = JobSubmissionClient(dashboard).get_job_info(submission)
    assert shlex.split(details.entrypoint) == [
        "autoprune", "search", "job.yaml", "--address", "auto", "--run", "/no such place/$HOME",
        "--store", store,
    ]  # fmt: skip


def test_what_only_this_machine_can_do_is_refused_together(job: Mapping[str, Any]) -> None:
    local = {
        **job,
        "model": {"name": "digits_cnn", "checkpoint": "runs/weights.safetensors"},
        "data": {"name": "npz", "path": "~/images.npz"},
        "resources": {"workers": "serial"},
    }
    with pytest.raises(JobError, match="absolute") as caught:
        cluster_job(local)
    assert [each.path for each in caught.value.violations] == [
        "model.checkpoint", "data.path", "resources.workers",
    ]  # fmt: skip


def test_a_checkpoint_that_only_the_cluster_has_is_accepted(job: Mapping[str, Any]) -> None:
    there = {**job, "model": {"name": "digits_cnn", "checkpoint": "/no/such.safetensors"}}
    assert cluster_job(there).name == "digits"


@pytest.mark.parametrize(
    ("changed", "options", "words"),
    [
        ({"seeed": 1}, {}, "unknown key"),
        ({}, {"run": "runs/first"}, "absolute"),
        ({}, {"store": "postgresql://me:secret@db/runs"}, "PGPASSWORD"),
        ({}, {"store": "postgresql://me@db/runs?password=secret"}, "PGPASSWORD"),
        ({}, {"store": "secret"}, "postgresql://USER"),
        ({}, {"store": "postgresql://me@db/runs", "resume": True}, "--resume takes no --store"),
        ({}, {"dashboard": "head:8265"}, "http://HOST:8265"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    job: Mapping[str, Any], tmp_path: Path, changed: Any, options: Any, words: str
) -> None:
    path = _written({**job, **changed}, tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        submit(path, **{"dashboard": _NOWHERE, "run": "/runs/first", **options})
    assert "secret" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_named(job: Mapping[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match=f"nothing answers at {_NOWHERE}"):
        submit(_written(job, tmp_path), _NOWHERE, "/runs/first")


def test_an_address_from_the_environment_never_wins(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    with pytest.raises(InputError, match="RAY_ADDRESS is set"):
        submit(_written(job, tmp_path), _NOWHERE, "/runs/first")


def test_ray_without_its_job_client_is_an_error_that_says_what_to_install(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from autoprune.cli.main import main\n"
        f"sys.argv = ['autoprune', 'submit', {str(_written(job, tmp_path))!r},"
        f" '--via-ray-job', {_NOWHERE!r}, '--run', '/runs/first']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert "autoprune[cluster]" in done.stderr
