"""A search that a Ray cluster runs by itself, submitted through Ray's job API.

    submit(Path("job.yaml"), "http://head:8265", "/work/runs/first")

Only the job file travels. Weights, data and the run's directory are where the cluster sees
them, and the cluster's own password for the store is used.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from autoprune.errors import ExecutorError, InputError, JobError, Violation
from autoprune.job.load import read_job_file
from autoprune.job.spec import Job
from autoprune.validation import validated

# Ray prefers them to the address that it is given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_JOB_FILE = "job.yaml"


def submit(
    job_file: Path,
    dashboard: str,
    run: str,
    *,
    overrides: Sequence[str] = (),
    store: str | None = None,
    resume: bool = False,
) -> str:
    """Submit a search to the cluster whose dashboard is at `dashboard`; return its id.

    The id is NAME-HASH-N: the job's name, a hash of the run's directory, and a number that
    counts the submissions for it. `run` is a directory of the cluster. Returns as soon as
    the cluster has accepted; what becomes of the search is in Ray's log of the submission.

    Raises `InputError` before anything is sent, also where a submission for the same run has
    not ended, and `ExecutorError` where no job API answers or it refuses.
    """
    raw = read_job_file(job_file, overrides)
    job = cluster_job(raw, str(job_file))
    entrypoint = _entrypoint(run, store, resume)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / _JOB_FILE).write_text(yaml.safe_dump(raw), encoding="utf-8")
        with _job_api(dashboard) as client:
            accepted: str = client.submit_job(
                entrypoint=entrypoint,
                runtime_env={"working_dir": directory},
                submission_id=_next_id(client.list_jobs(), job.name, run),
            )
    return accepted


def cluster_job(raw: Mapping[str, Any], source: str = "job") -> Job:
    """Validate a job that runs elsewhere; whether its files exist, only the cluster can tell.

    Raises `JobError` with every problem, among them paths that are relative, and serial work.
    """
    model = raw.get("model")
    checkpoint = model.get("checkpoint") if isinstance(model, Mapping) else None
    if checkpoint is not None:
        raw = {**raw, "model": {**raw["model"], "checkpoint": None}}
    job = validated(raw, source)
    given = {"model.checkpoint": checkpoint, "data.path": job.data.source.options.get("path")}
    rule = "the cluster looks this path up, so it must be absolute there"
    problems = [
        Violation(place, path, rule)
        for place, path in given.items()
        if path is not None and not _is_absolute(str(path))
    ]
    if job.resources.workers == "serial":
        problems.append(
            Violation("resources.workers", "serial", "a cluster takes auto or a number")
        )
    if problems:
        raise JobError(problems, source)
    return job


def _entrypoint(run: str, store: str | None, resume: bool) -> str:
    """Return the shell command that the cluster runs; anyone who sees the dashboard reads it."""
    if not _is_absolute(run):
        raise InputError(
            f"--run {run}: name the run's directory as the cluster sees it, by an absolute path; "
            "a relative one would lie in a directory that Ray deletes"
        )
    if resume and store is not None:
        raise InputError("a run that has begun knows its store: --resume takes no --store")
    command = ["autoprune", "search", _JOB_FILE, "--address", "auto", "--run", run]
    if store is not None:
        command += ["--store", _without_password(store)]
    return shlex.join([*command, "--resume"] if resume else command)


def _without_password(store: str) -> str:
    try:
        url = make_url(store)
    except ArgumentError:
        raise InputError("--store takes postgresql://USER@HOST:PORT/DATABASE") from None
    if url.password is not None or "password" in url.query:
        raise InputError(
            "--store has a password, and Ray's dashboard shows it to everyone; leave it out and "
            "give the nodes PGPASSWORD or a .pgpass file"
        )
    return store


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute()


def _next_id(submissions: Sequence[Any], job: str, run: str) -> str:
    """Return a free id; raises `InputError` while an earlier submission for `run` goes on."""
    directory = str(PurePosixPath(run))
    stem = f"{job}-{hashlib.sha256(directory.encode()).hexdigest()[:8]}-"
    numbers = [0]
    for each in submissions:
        name = each.submission_id or ""  # None: a driver that was not submitted
        if not name.startswith(stem):
            continue
        if not each.status.is_terminal():
            raise InputError(
                f"{name} is {each.status.value} in {run} already; follow it with 'ray job logs', "
                "or name another --run"
            )
        numbers.append(int(name.removeprefix(stem)))
    return f"{stem}{max(numbers) + 1}"


@contextmanager
def _job_api(dashboard: str) -> Iterator[Any]:
    """Connect to the job API, and put what goes wrong with it into words."""
    address = urlsplit(dashboard)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"--via-ray-job takes http://HOST:8265, given: {dashboard!r}")
    for name in _OVERRIDES:
        if os.environ.get(name, dashboard) != dashboard:
            raise InputError(f"{name} is set, and Ray would submit there; unset it")
    try:
        import aiohttp  # noqa: F401 - Ray's own imports hide that it is missing
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise InputError(
            "Ray's job API needs more of Ray: pip install 'autoprune[cluster]'"
        ) from error
    try:
        yield JobSubmissionClient(dashboard)
    except ConnectionError as error:
        raise ExecutorError(
            f"nothing answers at {dashboard}; is the cluster's dashboard up and reachable from "
            "here (port 8265 of its head)?"
        ) from error
    except (OSError, RuntimeError, RayError) as error:  # OSError: all that requests raises
        raise ExecutorError(f"the job API at {dashboard} refuses: {error}") from error
