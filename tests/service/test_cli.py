"""The command line against the real server, as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import autoprune
from autoprune.contracts.store import Entry
from autoprune.run import Run
from autoprune.store.location import open_store, place_store
from cluster.client import Client
from tests.certificates import Authority
from tests.commands import command
from tests.made_up_run import log
from tests.service.conftest import CLI, Served, body_of
from tests.service.test_client import events_in, logged


def cli(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return command(*arguments, variables=variables)


def as_json(*arguments: str, **variables: str) -> Any:
    done = cli(*arguments, "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[[str], Path]:
    def written(name: str) -> Path:
        path = tmp_path / f"{name}.yaml"
        body = {key: value for key, value in body_of(name).items() if key != "name"}
        path.write_text(yaml.safe_dump(body))
        return path

    return written


def test_a_job_is_submitted_listed_cancelled_resumed_and_deleted(
    idle: Served, job_file: Callable[[str], Path]
) -> None:
    path, where = str(job_file("typed")), {"AUTOPRUNE_SERVER": idle.target}
    checked = cli("submit", path, "--server", idle.target, "--validate-only")
    assert (checked.returncode, checked.stdout) == (0, "typed is valid; nothing was started\n")
    done = cli("submit", path, "--set", "seed=3", **where)
    assert done.returncode == 0, done.stderr
    assert "autoprune watch typed" in done.stdout
    again = cli("submit", path, **where)
    assert (again.returncode, again.stdout) == (2, "")
    assert "there is a job 'typed' already" in again.stderr
    (listed,) = [each for each in as_json("jobs", **where) if each["name"] == "typed"]
    assert (listed["state"], listed["trials"], listed["hypervolume"]) == ("QUEUED", 0, None)
    assert "typed" in cli("jobs", "--state", "queued", **where).stdout
    assert "typed" not in cli("jobs", "--state", "running", **where).stdout
    with Client(idle.target) as client:
        assert client.job("typed").spec["seed"] == 3
    assert as_json("cancel", "typed", "--now", **where)["state"] == "CANCELLED"
    assert cli("watch", "typed", **where).returncode == 1
    assert as_json("resume", "typed", "--trials", "7", **where)["state"] == "QUEUED"
    refused = cli("delete", "typed", **where)
    assert refused.returncode == 2
    assert "cancel it first" in refused.stderr
    assert cli("cancel", "typed", **where).stdout.startswith("typed is CANCELLED")
    assert as_json("delete", "typed", **where) == {"name": "typed", "deleted": True}
    gone = cli("cancel", "typed", **where)
    assert (gone.returncode, gone.stderr) == (2, "error: there is no job 'typed'\n")


def test_all_that_is_wrong_with_a_job_is_said(idle: Served, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model: {name: digits_cnn}\ndata: digits\nbudget: {trials: 0}\nseed: -1\n")
    done = cli("submit", str(path), "--server", idle.target)
    assert done.returncode == 2
    assert "job has 2 problems" in done.stderr
    assert "budget.trials: " in done.stderr
    assert "(given: -1)" in done.stderr


def test_a_run_of_a_server_is_printed_as_that_of_a_directory(idle: Served) -> None:
    directory = str(logged(idle, "plain", log()))
    remote = f"plain@{idle.target}"
    for words in (
        ["front", "--all", "--where", "macs<=0.5*dense", "--sort", "macs"],
        ["front", "--pick", "knee", "--format", "json"],
        ["front", "--format", "json"],
        ["show", "knee", "--format", "json"],
        ["show", "22"],
    ):
        name, *rest = words
        local, there = cli(name, directory, *rest), cli(name, remote, *rest)
        assert (local.returncode, there.returncode) == (0, 0), there.stderr
        assert there.stdout == local.stdout
    for trial in ("999", "elbow", "best:nothing"):
        done = cli("show", remote, trial)
        assert (done.returncode, done.stdout) == (2, "")


def test_asking_a_server_imports_no_torch(idle: Served) -> None:
    logged(idle, "plain", log())
    for words in (
        ["front", f"plain@{idle.target}", "--format", "json"],
        ["show", f"plain@{idle.target}", "knee"],
        ["jobs", "--server", idle.target],
        ["watch", "plain", "--server", idle.target],
    ):
        look = (
            "import sys; from autoprune.cli.main import app; "
            f"app({words!r}, standalone_mode=False); "
            "sys.exit(not {'torch', 'ray'}.isdisjoint(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)


def test_events_are_printed_a_line_each(idle: Served) -> None:
    events = events_in(logged(idle, "plain", log()))
    done = cli("watch", "plain", "--server", idle.target, "--format", "json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(x["seq"], x["kind"], x["trial"], x["body"]) for x in lines] == [
        (x.seq, str(x.kind), x.trial, x.body) for x in events
    ]
    late = cli("watch", "plain", "--after", "40", "--server", idle.target, "--format", "json")
    assert late.stdout.splitlines() == done.stdout.splitlines()[40:]


def test_watching_ends_with_the_job(idle: Served) -> None:
    logged(idle, "plain", log())
    done = cli("watch", "plain", "--server", idle.target)
    assert done.returncode == 0, done.stderr
    assert "plain FINISHED · " in done.stdout
    assert "hypervolume 0." in done.stdout
    assert "2 failed" in done.stdout


def test_ctrl_c_ends_the_watching_and_not_the_job(idle: Served) -> None:
    logged(idle, "endless", log()[:-1])
    watching = subprocess.Popen(
        [*CLI, "watch", "endless", "--server", idle.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        # Of tests that run in the background of a shell it would be ignored, as they ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert watching.stderr is not None
    # gRPC may have a word of its own to say, about the process that this one was made from.
    assert any("endless QUEUED" in line for line in watching.stderr)
    time.sleep(0.5)
    watching.send_signal(signal.SIGINT)
    output, errors = watching.communicate(timeout=30)
    assert (watching.returncode, output) == (130, "")
    assert "endless goes on" in errors
    with Client(idle.target) as client:
        assert client.job("endless").state == "QUEUED"  # this server searches nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs"], "AUTOPRUNE_SERVER"),
        (["jobs", "--server", "head"], "HOST:PORT"),
        (["jobs", "--server", "localhost:1", "--tls-cert", "a.pem"], "go together"),
        (["jobs", "--server", "localhost:1", "--token-file", "nowhere"], "token file"),
        (["jobs", "--server", "localhost:1", "--state", "runing"], "did you mean 'RUNNING'"),
        (["front", "a@head"], "HOST:PORT"),
        (["submit", "JOB", "--server", "localhost:1", "--run", "x"], "--via-ray-job only"),
        (["submit", "JOB", "--server", "localhost:1", "--via-ray-job", "http://x"], "--server"),
        (["submit", "JOB", "--via-ray-job", "http://x:1"], "needs --run"),
        (["submit", "JOB", "--via-ray-job", "http://x:1", "--run", "/x", "--watch"], "--watch"),
        (["submit", "nowhere.yaml", "--server", "localhost:1"], "cannot read job file"),
    ],
)
def test_bad_input_starts_nothing(
    arguments: list[str], message: str, job_file: Callable[[str], Path]
) -> None:
    path = str(job_file("typed"))
    done = cli(*(path if each == "JOB" else each for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def searched(
    idle: Served, digits_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A real small run, which the server then has as its job `real`; its directory."""
    body = {
        "name": "real",
        "model": {"name": "digits_cnn", "checkpoint": str(digits_checkpoint)},
        "data": {"name": "digits"},
        "searchers": ["nsga2"],
        "baselines": {"searchers": ["uniform"], "trials": 2},
        "rungs": [{"repair_images": 200, "images": 200}],
        "budget": {"trials": 6},
        "resources": {"workers": "serial", "device": "cpu"},
    }
    run = autoprune.search(body, tmp_path_factory.mktemp("searched") / "run")
    with Client(idle.target) as client:
        client.submit(body_of("real"))
    identity = idle.submission("real").id
    place = idle.directory / "jobs" / identity
    aside = place.with_name("real-aside")
    aside.mkdir()
    with open_store(run.directory, read_only=True) as store:
        spec, events = store.jobs()[0].spec, list(store.events("real"))
    with place_store(aside, None, identity) as store:
        store.create_job(identity, spec)
        store.append(identity, [Entry(x.kind, x.trial, x.attempt, x.body) for x in events])
    shutil.copytree(run.directory / "files", aside / "files")
    aside.rename(place)
    return run.directory


def test_a_network_of_a_server_is_the_one_of_the_directory(
    idle: Served, searched: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / "local.safetensors", tmp_path / "remote.safetensors"]
    knee = Run.open(searched).trial("knee").number
    for where, path in zip((str(searched), f"real@{idle.target}"), paths, strict=True):
        body = as_json("export", where, "knee", "--to", "torch", "--out", str(path))
        assert (body["trial"], body["path"]) == (knee, str(path))
        assert body["size_bytes"] == path.stat().st_size
    networks = [autoprune.load(path) for path in paths]
    for one, other in zip(*(each.parameters() for each in networks), strict=True):
        assert one.equal(other)
    again = cli("export", f"real@{idle.target}", "knee", "--to", "torch", "--out", str(paths[1]))
    assert (again.returncode, again.stdout) == (2, "")
    assert "exists already" in again.stderr
    unknown = cli("export", f"real@{idle.target}", "0", "--to", "onx", "--out", str(tmp_path / "x"))
    assert unknown.returncode == 2
    assert "did you mean 'onnx'" in unknown.stderr
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_tls_tokens_and_certificates_are_spoken(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    own_cert, own_key = authority.issue("client")
    tokens, token = tmp_path / "tokens.json", tmp_path / "token"
    made = cli("token", "ci", "--token-file", str(tokens), "--scope", "submit")
    token.write_text(made.stdout)
    served = serve(
        *("--max-jobs", "0", "--tls-cert", str(cert), "--tls-key", str(key)),
        *("--tls-client-ca", str(authority.path), "--token-file", str(tokens)),
    )
    target = f"localhost:{served.port}"
    ours = ["--tls-cert", str(own_cert), "--tls-key", str(own_key)]
    known = ["--server", target, "--tls-ca", str(authority.path), *ours]
    assert as_json("jobs", *known, "--token-file", str(token)) == []
    from_environment = {
        "AUTOPRUNE_SERVER": target,
        "AUTOPRUNE_TOKEN": made.stdout.strip(),
        "AUTOPRUNE_TLS_CA": str(authority.path),
        "AUTOPRUNE_TLS_CERT": str(own_cert),
        "AUTOPRUNE_TLS_KEY": str(own_key),
    }
    assert as_json("jobs", **from_environment) == []
    for arguments, message in (
        (["jobs", *known], "does not know you"),
        (["delete", "x", *known, "--token-file", str(token)], "refuses"),
        (["jobs", "--server", target, "--tls-ca", str(authority.path)], "check that it runs"),
        (["jobs", "--server", target, "--tls-ca", str(own_cert), *ours], "in TLS"),
        (["jobs", "--server", target], "in plaintext"),
    ):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert message in done.stderr
        assert made.stdout.strip() not in done.stderr
