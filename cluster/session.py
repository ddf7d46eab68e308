"""One search on this machine or an existing cluster, from job to report.

    run = search("examples/digits.yaml", "runs/digits")

The loop runs in this process; evaluations run on Ray actors, or here when the job asks
for `resources.workers: serial`.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.contracts.executor import EvaluatorSpec, Executor
from autoprune.contracts.searcher import SearchProblem
from autoprune.controller.agenda import Agenda
from autoprune.controller.loop import SearchLoop
from autoprune.controller.problem import problem_of
from autoprune.controller.roster import Roster
from autoprune.controller.state import resumed
from autoprune.controller.warm_start import carried_over
from autoprune.errors import RunError
from autoprune.evaluation.inference import best_device
from autoprune.evaluation.preparation import Preparation
from autoprune.executor.local import LocalExecutor
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec, preflight, require_reachable
from autoprune.report.html import write_report
from autoprune.run import FILES_NAME, REPORT_NAME, STORE_NAME, Run
from autoprune.store.sql import SqlStore
from autoprune.validation import load_job, validated

# What may differ when a run is resumed: how long and on what, never what is searched.
_RESUMABLE = ("budget", "resources")


def search(
    job: Job | Mapping[str, Any] | str | Path,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    warm_start: str | Path | None = None,
    address: str | None = None,
    on_progress: Callable[[Agenda], None] = lambda agenda: None,
) -> Run:
    """Search, write the report, and return the run.

    `run` is the directory that holds the log and the files (default `runs/NAME`). With
    `resume` an interrupted run goes on without evaluating any finished trial again; its
    budget and resources may have changed. `warm_start` is the directory of an earlier run,
    of this model or of another one of its family, whose front is tried first of all.
    `address` names an existing Ray cluster.

    Raises `InputError` before anything is started or written, `AutopruneError` when the
    search cannot go on. `KeyboardInterrupt` passes through after the log is closed.
    """
    job = _job(job)
    directory = Path(run) if run is not None else Path("runs") / job.name
    if not _exists(directory, resume=resume):
        _create(job, directory, warm_start)
    elif warm_start is not None:
        raise RunError(f"{directory} has begun already: a warm start is for a new run")
    _run(job, directory, address, on_progress)
    done = Run.open(directory)
    write_report(done, directory / REPORT_NAME)
    return done


def _run(
    job: Job, directory: Path, address: str | None, on_progress: Callable[[Agenda], None]
) -> None:
    """Go on with a run from where its log stands."""
    with _only_one(directory), SqlStore(directory / STORE_NAME) as store:
        record = store.jobs()[0]
        _check_same(job, Job.model_validate(record.spec["job"]), directory)
        preparation = Preparation.from_json(record.spec["preparation"])
        seeds = [Policy.from_json(each) for each in record.spec["warm_start"]]
        # Timeless as it began, also where it goes on with other resources: its log is so.
        begun = Job.model_validate(record.spec["job"])
        problem = replace(problem_of(begun, preparation), trials=job.budget.trials)
        state = resumed(store, job, preparation, problem, seeds)
        files = str((directory / FILES_NAME).resolve())
        executor = _executor(job, evaluator_spec(job, preparation, files), address)
        try:
            SearchLoop(state, store, executor, on_progress).run()
        finally:
            executor.close()


def _exists(directory: Path, *, resume: bool) -> bool:
    """Say whether a run goes on; raises `RunError` where that is not what was asked."""
    exists = (directory / STORE_NAME).exists()
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


def _create(job: Job, directory: Path, warm_start: str | Path | None) -> None:
    """Check everything, then make the run directory with an empty log."""
    earlier = Run.open(Path(warm_start)) if warm_start is not None else None
    found = preflight(job)
    require_reachable(found)
    problem = problem_of(job, found.preparation)
    Roster(job, problem)  # raises where a searcher cannot serve
    seeds = _seeds(earlier, problem) if earlier is not None else []
    try:
        (directory / FILES_NAME).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {directory}: {error.strerror}") from error
    with SqlStore(directory / STORE_NAME) as store:
        spec = {
            "job": job.to_json(),
            "preparation": found.preparation.to_json(),
            "warm_start": [policy.to_json() for policy in seeds],
        }
        store.create_job(job.name, spec)


def _seeds(earlier: Run, problem: SearchProblem) -> list[Policy]:
    members = [each.policy for each in earlier.front().members if not each.policy.is_dense]
    return carried_over(members, earlier.graph.groups, problem)


def _executor(job: Job, spec: EvaluatorSpec, address: str | None) -> Executor:
    if job.resources.workers == "serial":
        return LocalExecutor(spec)
    from cluster.executor import RayExecutor, Resources, workers_for

    device = best_device(job.resources.device).type
    gpus = job.resources.gpus_per_worker if device == "cuda" else 0.0
    workers = workers_for(job.resources.workers, device, gpus)
    resources = Resources(workers, gpus, job.resources.trial_timeout_s)
    return RayExecutor(spec, resources, address)


def _check_same(given: Job, stored: Job, directory: Path) -> None:
    old, new = stored.to_json(), given.to_json()
    changed = [key for key in old if key not in _RESUMABLE and old[key] != new[key]]
    if changed:
        raise RunError(
            f"the job differs from the one in {directory} in: {', '.join(changed)}; only "
            f"{' and '.join(_RESUMABLE)} may change on --resume; start a new run with --run"
        )


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold the run's lock; the kernel lets it go even when the process is killed."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is searching in {directory}") from None
        yield
