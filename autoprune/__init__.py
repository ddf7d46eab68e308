"""autoprune: a search engine for compressed networks.

    import autoprune

    run = autoprune.search("job.yaml", "runs/first")
    network = autoprune.load("knee.safetensors")

Names are imported on first use, so that `import autoprune` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.job.spec import Job
    from autoprune.policy import Policy
    from autoprune.rebuild import load
    from autoprune.run import Run
    from cluster.session import search

__all__ = ["Job", "Policy", "Run", "load", "search"]
__version__ = "0.1.0"

_HOMES = {
    "Job": "autoprune.job.spec",
    "Policy": "autoprune.policy",
    "Run": "autoprune.run",
    "load": "autoprune.rebuild",
    "search": "cluster.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
