"""The connection of this process to Ray: a cluster that runs, or one of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import ray

from autoprune.errors import ExecutorError

NAMESPACE = "autoprune"


@contextmanager
def connected(address: str | None, workers: Literal["auto"] | int = "auto") -> Iterator[None]:
    """Connect to the cluster at `address`, or start Ray on this machine for as long as needed.

    A Ray that is up in this process already is used as it is. Raises `ExecutorError`.
    """
    if ray.is_initialized():
        yield
        return
    _connect(address, workers)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, workers: Literal["auto"] | int) -> None:
    settings = {
        # Usage reports would leave the machine.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers without a GPU share keep their view of the devices, as Ray will do by default.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    cores = len(os.sched_getaffinity(0)) if workers == "auto" else workers
    local = {"num_cpus": cores, "include_dashboard": False} if address is None else {}
    is_main = threading.current_thread() is threading.main_thread()
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            **local,
        )
    except Exception as error:
        where = f"at {address}" if address else "on this machine"
        raise ExecutorError(f"Ray could not be started {where}: {error}") from error
    if is_main:
        signal.signal(signal.SIGTERM, on_term)  # Ray would end the process at once
