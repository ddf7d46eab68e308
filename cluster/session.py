"""One search from job to report: conducted here, or by a controller on a cluster.

    run = search("examples/digits.yaml", "runs/digits")

On this machine the loop runs in this process, and evaluations on Ray actors, or here as
well when the job asks for `resources.workers: serial`. On a cluster a detached controller
runs the loop; this process follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from autoprune.contracts.searcher import SearchProblem
from autoprune.controller.problem import problem_of
from autoprune.controller.progress import Watcher, unwatched
from autoprune.controller.roster import Roster
from autoprune.controller.warm_start import carried_over
from autoprune.errors import AutopruneError, InputError, RunError
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.preflight import preflight, require_reachable
from autoprune.report.html import write_report
from autoprune.run import FILES_NAME, REPORT_NAME, Run
from autoprune.store.location import has_store, open_store, place_store, record_of
from autoprune.validation import load_job, validated
from cluster.conduct import conduct
from cluster.owner import this_process

# What may differ when a run is resumed: how long and on what, never what is searched.
_RESUMABLE = ("budget", "resources")


def search(
    job: Job | Mapping[str, Any] | str | Path,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    warm_start: str | Path | None = None,
    store: str | None = None,
    address: str | None = None,
    detach: bool = False,
    watcher: Watcher = unwatched,
) -> Run:
    """Search, write the report, and return the run.

    `run` is the directory that holds the log and the files (default `runs/NAME`); with
    `store`, a `postgresql://` URL, the log is in that database. With `resume` an interrupted
    run goes on without evaluating any finished trial again; its budget and resources may
    have changed. `warm_start` is the directory of an earlier run, of this model or of
    another one of its family, whose front is tried first of all. `address` names a Ray
    cluster, on which a controller then runs the search, also when this process ends; with
    `detach` this function returns as soon as that is started.

    Raises `InputError` before anything is started or written, `AutopruneError` when the
    search cannot go on. `KeyboardInterrupt` passes through after the log is closed.
    """
    job = _job(job)
    _check_place(job, address, detach)
    directory = Path("runs") / job.name if run is None else Path(run)
    if not _exists(directory, resume=resume):
        create(job, directory, warm_start=warm_start, store=store, is_elsewhere=address is not None)
    elif warm_start is not None or store is not None:
        raise RunError(f"{directory} has begun already: a warm start and a store are for new runs")
    _check_same(job, directory)
    if address is None:
        _conduct_here(job, directory, watcher)
    else:
        _conduct_there(job, directory, address, detach, watcher)
    done = Run.open(directory)
    if not detach:
        _conclude(done)
    return done


def _conduct_here(job: Job, directory: Path, watcher: Watcher) -> None:
    workers = job.resources.workers
    if workers == "serial":
        place: Any = nullcontext()
    else:
        from cluster.connection import connected

        place = connected(None, workers)
    with place:
        conduct(directory, job, this_process(), watcher=watcher)


def _conduct_there(job: Job, directory: Path, address: str, detach: bool, watcher: Watcher) -> None:
    from cluster.connection import connected
    from cluster.controller import follow, start

    with connected(address):
        name = start(directory, job)
        if not detach:
            follow(name, directory, watcher)


def _check_place(job: Job, address: str | None, detach: bool) -> None:
    if address is not None and job.resources.workers == "serial":
        raise InputError("resources.workers is serial: drop --address, or set it to auto")
    if detach and address is None:
        raise InputError("--detach leaves a search to a cluster: name one with --address")


def _conclude(run: Run) -> None:
    """Write the report; raise where the log says that the search came to no good end."""
    write_report(run, run.directory / REPORT_NAME)
    history = run.history
    if history.close_reason not in ("finished", "exhausted"):
        why = f": {history.close_detail}" if history.close_detail else ""
        raise AutopruneError(
            f"the search was {history.close_reason}{why}; what was found is kept, and --resume "
            f"goes on in {run.directory}"
        )


def _exists(directory: Path, *, resume: bool) -> bool:
    """Say whether a run goes on; raises `RunError` where that is not what was asked."""
    exists = has_store(directory)
    if exists and not resume:
        raise RunError(
            f"{directory} holds a run already; --resume continues it, --run names another"
        )
    if resume and not exists:
        raise RunError(f"{directory} holds no run to resume")
    return exists


def _job(job: Job | Mapping[str, Any] | str | Path) -> Job:
    if isinstance(job, Job):
        return validated(job.to_json())
    return validated(job) if isinstance(job, Mapping) else load_job(Path(job))


def create(
    job: Job,
    directory: Path,
    *,
    warm_start: str | Path | None = None,
    store: str | None = None,
    is_elsewhere: bool = True,
    key: str | None = None,
) -> None:
    """Check everything, then make the run directory with an empty log.

    Where evaluations run `is_elsewhere`, this machine need not have the job's device. `key` is
    what the log is called in its store, where that is not the job's name. Raises `InputError`.
    """
    earlier = Run.open(Path(warm_start)) if warm_start is not None else None
    here = job.resources.model_copy(update={"device": "auto"})
    found = preflight(job.model_copy(update={"resources": here}) if is_elsewhere else job)
    require_reachable(found)
    problem = problem_of(job, found.preparation)
    Roster(job, problem)  # raises where a searcher cannot serve
    seeds = _seeds(earlier, problem) if earlier is not None else []
    try:
        (directory / FILES_NAME).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {directory}: {error.strerror}") from error
    spec = {
        "job": job.to_json(),
        "preparation": found.preparation.to_json(),
        "warm_start": [policy.to_json() for policy in seeds],
    }
    with place_store(directory, store, key or job.name) as opened:
        opened.create_job(key or job.name, spec)


def _seeds(earlier: Run, problem: SearchProblem) -> list[Policy]:
    members = [each.policy for each in earlier.front().members if not each.policy.is_dense]
    return carried_over(members, earlier.graph.groups, problem)


def _check_same(given: Job, directory: Path) -> None:
    with open_store(directory, read_only=True) as store:
        stored = Job.model_validate(record_of(directory, store).spec["job"])
    old, new = stored.to_json(), given.to_json()
    changed = [key for key in old if key not in _RESUMABLE and old[key] != new[key]]
    if changed:
        raise RunError(
            f"the job differs from the one in {directory} in: {', '.join(changed)}; only "
            f"{' and '.join(_RESUMABLE)} may change on --resume; start a new run with --run"
        )
