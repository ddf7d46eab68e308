"""Clients of the service `autoprune.v1`: submit jobs, watch them, query their fronts.

    from cluster.client import Client

    with Client("localhost:8470") as client:
        client.submit("job.yaml")
        run = client.run("digits")            # what `autoprune.Run.open` returns of a directory
        run.export(run.trial("knee"), "onnx", Path("knee.onnx"))

No client needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.client.aio import AsyncClient
    from cluster.client.connection import Connection
    from cluster.client.message import (
        Answer,
        Explanation,
        FrontChange,
        JobState,
        JobStatus,
        TrialSummary,
    )
    from cluster.client.remote_run import RemoteRun
    from cluster.client.retry import Patience
    from cluster.client.sync import Client

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Connection",
    "Explanation",
    "FrontChange",
    "JobState",
    "JobStatus",
    "Patience",
    "RemoteRun",
    "TrialSummary",
]

_HOMES = {
    "AsyncClient": "aio",
    "Client": "sync",
    "Connection": "connection",
    "Patience": "retry",
    "RemoteRun": "remote_run",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cluster.client' has no attribute {name!r}")
    home = _HOMES.get(name, "message")
    return getattr(importlib.import_module(f"cluster.client.{home}"), name)
