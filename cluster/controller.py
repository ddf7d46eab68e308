"""A job's loop as a detached actor: it outlives who started it, and Ray restarts it.

    name = start(directory, job)          # or finds the one that runs already
    follow(name, directory, watcher)      # until it has ended

The actor holds nothing that must survive: a new one goes on from the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoprune.controller.loop import SearchLoop
from autoprune.controller.progress import Progress, Watcher
from autoprune.errors import AutopruneError, ExecutorError, RunError
from autoprune.job.spec import Job
from autoprune.run import Run
from autoprune.store.location import STORE_NAME, has_store
from cluster.conduct import conduct
from cluster.connection import NAMESPACE

LOG_NAME = "controller.log"
_LOOK_S = 0.5
_ANSWER_S = 5.0
# How long a controller may be away, while Ray starts it anew, before it is given up.
_AWAY_S = 90.0
_log = logging.getLogger(__name__)


class SearchController:
    """Conducts one job in a thread of its own, and ends itself when the job has ended."""

    def __init__(self, name: str, directory: str, job: Mapping[str, Any]) -> None:
        self._name = name
        self._directory = Path(directory)
        self._job = Job.model_validate(job)
        self._loop: SearchLoop | None = None
        self._progress: Progress | None = None
        self._looked = 0.0
        self._problem: str | None = None
        self._is_stopped = False
        self._is_drained = False
        threading.Thread(target=self._work, daemon=True).start()

    def progress(self) -> Mapping[str, Any] | None:
        """Return how far the search is, None while it starts; raises what ended it."""
        if self._problem is not None:
            raise AutopruneError(self._problem)
        return None if self._progress is None else self._progress.to_json()

    def stop(self) -> None:
        """Interrupt the search, as Ctrl-C does; finished trials are kept."""
        self._is_stopped = True
        if self._loop is not None:
            self._loop.stop()

    def drain(self) -> None:
        """Begin nothing new, and end when what is under way has finished."""
        self._is_drained = True
        if self._loop is not None:
            self._loop.drain()

    def _work(self) -> None:
        try:
            self._require_directory()
            _log_to(self._directory / LOG_NAME)
            conduct(
                self._directory,
                self._job,
                f"actor {self._name}",
                watcher=self._watch,
                on_start=self._take,
            )
        except KeyboardInterrupt:
            _log.info("interrupted")
        except Exception as error:
            is_ours = isinstance(error, AutopruneError)
            _log.warning("the search ended: %s", error, exc_info=not is_ours)
            self._problem = str(error) if is_ours else repr(error)
            time.sleep(2 * _LOOK_S)  # whoever looks can read it; the log has most of it as well
        # By name, without a restart: an end that this process merely came to would be undone.
        ray.kill(ray.get_actor(self._name, NAMESPACE), no_restart=True)

    def _require_directory(self) -> None:
        if not has_store(self._directory):
            node = ray.get_runtime_context().get_node_id()
            raise RunError(
                f"node {node} does not see {self._directory}: put it on storage that all nodes "
                "share"
            )

    def _take(self, loop: SearchLoop) -> None:
        self._loop = loop
        if self._is_stopped:  # while the job was being loaded
            loop.stop()
        if self._is_drained:
            loop.drain()

    def _watch(self, look: Any) -> None:
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._progress = look()


def start(directory: Path, job: Job) -> str:
    """Start the controller of a stored job, or find the one that runs; return its name.

    With SQLite it stays on this node, where the file is. This process must be connected to
    the cluster.
    """
    name = f"search {job.name} in {directory.resolve()}"
    placement: Any = "DEFAULT"
    if (directory / STORE_NAME).is_file():
        here = ray.get_runtime_context().get_node_id()
        placement = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
    ray.remote(SearchController).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=4,
        scheduling_strategy=placement,
    ).remote(name, str(directory.resolve()), job.to_json())
    return name


def follow(name: str, directory: Path, watcher: Watcher) -> None:
    """Wait until the search of a controller has ended, wherever the controller is meanwhile.

    Ctrl-C interrupts the search. Raises `ExecutorError` for a controller that is gone while
    its job is unfinished, and `AutopruneError` with what ended the search.
    """
    seen = time.monotonic()
    try:
        while True:
            try:
                actor = ray.get_actor(name, NAMESPACE)
                body = ray.get(actor.progress.remote(), timeout=_ANSWER_S)
            except ValueError:  # it has ended itself
                _require_end(directory)
                return
            except RayError as error:  # it is on its way, or starts anew
                if isinstance(getattr(error, "cause", None), AutopruneError):
                    raise error.cause from None
                if time.monotonic() - seen > _AWAY_S:
                    raise ExecutorError(
                        f"the controller of {directory} has been away for {_AWAY_S:g} s: {error}; "
                        "--resume goes on where the log ends"
                    ) from error
            else:
                seen = time.monotonic()
                if body is not None:
                    watcher(partial(Progress.from_json, body))
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        _interrupt(name, directory)
        raise


def _interrupt(name: str, directory: Path) -> None:
    with suppress(RayError, ValueError):
        ray.get(ray.get_actor(name, NAMESPACE).stop.remote(), timeout=_ANSWER_S)
    deadline = time.monotonic() + 2 * _ANSWER_S
    while not _has_ended(directory) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _has_ended(directory: Path) -> bool:
    """Say whether the last session of the job was closed."""
    return Run.open(directory).history.close_reason is not None


def _require_end(directory: Path) -> None:
    if not _has_ended(directory):
        raise ExecutorError(
            f"the controller of {directory} is gone; {directory / LOG_NAME} says why, and "
            "--resume goes on where the log ends"
        )


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
