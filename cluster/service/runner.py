"""The process that has jobs searched on Ray: `python -m cluster.service.runner [ADDRESS]`.

Reads orders, a line of JSON each, and says what comes of them:

{"start": ID, "directory": …, "job": JOB, "store": URL}  →  {"started": ID}, {"ended": ID, "why": …}
{"drain": ID}, {"stop": ID}

It is Ray's driver, so that the server is none: it ends where Ray is gone, and the server starts
another one. Without an address it starts Ray on this machine, which ends with it. A job that runs
already is found, not started again; jobs outlive this process where Ray does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import ray
from ray.exceptions import RayError

from autoprune.controller.progress import unwatched
from autoprune.errors import AutopruneError
from autoprune.job.spec import Job
from autoprune.store.location import has_store
from cluster.connection import NAMESPACE, connected
from cluster.controller import follow, start

_LOOK_S = 5.0
_ANSWER_S = 20.0


class Runner:
    """Starts controllers and follows them, a thread for each job."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._tell = tell
        self._names: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._turn = threading.Lock()  # the network of one job at a time is examined

    def take(self, order: Mapping[str, Any]) -> None:
        """Carry out an order, or begin to."""
        if "start" in order:
            threading.Thread(target=self._work, args=(order,), daemon=True).start()
        for verb in ("drain", "stop"):
            if verb in order:
                self._wanted[order[verb]] = verb
                self._pass_on(order[verb])

    def _work(self, order: Mapping[str, Any]) -> None:
        identity, directory = order["start"], Path(order["directory"])
        self._wanted.pop(identity, None)
        why = ""
        try:
            if not has_store(directory):
                with self._turn:
                    _prepare(order)
            self._names[identity] = start(directory, Job.model_validate(order["job"]))
            self._tell({"started": identity})
            self._pass_on(identity)
            follow(self._names[identity], directory, unwatched)
        except AutopruneError as error:
            why = str(error)
        except Exception as error:  # the job has failed, and the server must hear of it
            why = repr(error)
        self._names.pop(identity, None)
        self._tell({"ended": identity, "why": why})

    def _pass_on(self, identity: str) -> None:
        """Tell a controller what is wanted of it, if it is there already."""
        verb, name = self._wanted.get(identity), self._names.get(identity)
        if verb is not None and name is not None:
            with suppress(RayError, ValueError):  # it has ended
                actor = ray.get_actor(name, NAMESPACE)
                ray.get(getattr(actor, verb).remote(), timeout=_ANSWER_S)


def _prepare(order: Mapping[str, Any]) -> None:
    """Examine the network and make the log, in a process of its own; raises `AutopruneError`."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.service.prepare"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    try:
        raise AutopruneError(json.loads(done.stdout.splitlines()[-1])["error"])
    except (IndexError, ValueError, KeyError):
        print(done.stderr, file=sys.stderr, flush=True)  # for the server's log
        why = f"examining the network ended with exit code {done.returncode}"
        raise AutopruneError(f"{why}: out of memory, perhaps; the server has logged it") from None


def main(address: str | None, source: TextIO, target: TextIO) -> None:
    """Take orders until there are no more, or until Ray is gone."""
    turn = threading.Lock()

    def tell(message: Mapping[str, Any]) -> None:
        with turn:
            target.write(json.dumps(message) + "\n")
            target.flush()

    with connected(address):
        runner = Runner(tell)
        threading.Thread(target=_watch_ray, daemon=True).start()
        tell({"ready": True})
        for line in source:
            runner.take(json.loads(line))


def _watch_ray() -> None:
    """End this process where Ray does not answer any more."""
    while True:
        answer = threading.Event()
        threading.Thread(target=_ask_ray, args=(answer,), daemon=True).start()
        if not answer.wait(_ANSWER_S):
            print("Ray does not answer", file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(_LOOK_S)


def _ask_ray(answer: threading.Event) -> None:
    with suppress(Exception):  # whatever it is, there is no answer
        ray.cluster_resources()
        answer.set()


if __name__ == "__main__":
    # Ray and what it loads may print; nothing but messages goes to the server.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None, sys.stdin, messages)
    except AutopruneError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
