"""Make the log of a submitted job: `python -m cluster.service.prepare`, an order on its input.

A process of its own, since a network that is examined may take memory that Python keeps, or the
whole process down. The job's directory is there when its log is, and not before. Why a job
cannot be searched stands in the last line of its output: {"error": …}.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from autoprune.errors import AutopruneError
from autoprune.job.spec import Job
from autoprune.store.sql import SqlStore
from cluster.session import create


def prepare(job: Job, directory: Path, store: str | None, key: str) -> None:
    """Examine the network and make the job's directory; raises `AutopruneError`."""
    aside = directory.with_name(f".{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was ended half-way
    if store is not None:
        with SqlStore(store) as shared:
            shared.delete_job(key)
    create(job, aside, store=store, key=key)
    aside.rename(directory)


def main() -> None:
    """Read an order as `cluster.service.runner` takes it, and carry it out."""
    order = json.load(sys.stdin)
    job = Job.model_validate(order["job"])
    prepare(job, Path(order["directory"]), order["store"], order["start"])


if __name__ == "__main__":
    try:
        main()
    except AutopruneError as error:
        print(json.dumps({"error": str(error)}))
        sys.exit(1)
