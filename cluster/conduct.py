"""Conducting a stored job from where its log stands, in whichever process this is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from autoprune.contracts.executor import Executor
from autoprune.contracts.store import JobRecord, Store
from autoprune.controller.lease import held
from autoprune.controller.loop import SearchLoop
from autoprune.controller.problem import problem_of
from autoprune.controller.progress import Watcher, unwatched
from autoprune.controller.state import DENSE_NUMBER, JobState, resumed
from autoprune.errors import JobHeldError, RunError
from autoprune.evaluation.inference import best_device
from autoprune.evaluation.preparation import Preparation
from autoprune.executor.local import LocalExecutor
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.preflight import evaluator_spec
from autoprune.run import FILES_NAME
from autoprune.store.location import open_store, record_of
from cluster.owner import described, is_dead


def conduct(
    directory: Path,
    job: Job,
    owner: str,
    *,
    watcher: Watcher = unwatched,
    on_start: Callable[[SearchLoop], None] = lambda loop: None,
) -> str:
    """Run a stored job to its end and return why it ended.

    `job` may differ from the stored one in budget and resources; `on_start` is given the
    loop, to stop it from another thread. Raises `RunError` while another controller drives
    the job, and what `SearchLoop.run` raises.
    """
    with open_store(directory) as store:
        record = record_of(directory, store)
        lease = store.lease(record.name)
        gone = lease.epoch if lease is not None and is_dead(lease.owner) else None
        try:
            with held(store, record.name, owner, instead_of=gone) as epoch:
                state = _state(store, job, record)
                loop = SearchLoop(
                    state,
                    store,
                    lambda: _executor(job, state, directory / FILES_NAME),
                    epoch=epoch,
                    watcher=watcher,
                )
                on_start(loop)
                return loop.run()
        except JobHeldError as error:
            lease = store.lease(record.name)
            who = described(lease.owner) if lease else "another process"
            raise RunError(f"{who} is searching in {directory}") from error


def _state(store: Store, job: Job, record: JobRecord) -> JobState:
    preparation = Preparation.from_json(record.spec["preparation"])
    seeds = [Policy.from_json(each) for each in record.spec["warm_start"]]
    # Timeless as it began, also where it goes on with other resources: its log is so.
    begun = Job.model_validate(record.spec["job"])
    problem = replace(problem_of(begun, preparation), trials=job.budget.trials)
    return resumed(store, job, preparation, problem, seeds, key=record.name)


def _device(job: Job) -> str:
    """Return the kind of device that workers use; the controller's own node need not have it.

    All nodes have the same torch: one that was built without CUDA uses no GPU anywhere.
    """
    import ray

    wanted = job.resources.device
    has_gpus = torch.backends.cuda.is_built() and ray.cluster_resources().get("GPU", 0) > 0
    return "cuda" if wanted == "auto" and has_gpus else best_device(wanted).type


def _executor(job: Job, state: JobState, files: Path) -> Executor:
    spec = evaluator_spec(job, state.preparation, str(files.resolve()))
    if job.resources.workers == "serial":
        return LocalExecutor(spec)
    from cluster.executor import RayExecutor
    from cluster.placement import Resources

    resources = Resources.of(job.resources, _device(job))
    dense = state.history.trials.get(DENSE_NUMBER)
    measured_on = dense.evaluation.device if dense and dense.evaluation else None
    return RayExecutor(spec, resources, files=files.resolve(), probe_device=measured_on)
