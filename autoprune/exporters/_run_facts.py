"""What exporters of runs know of a trial beyond its log, and how they say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autoprune.contracts.exporter import Chosen, versions


def origin(source: Chosen) -> dict[str, Any]:
    """Return the provenance of what is written of a run."""
    return {
        "job": source.run.job.name,
        "trial": source.trial.number,
        "policy_sha256": source.trial.policy.sha256,
        "model": source.run.job.to_json()["model"],
        "data": source.run.job.to_json()["data"],
        "seed": source.run.job.seed,
        "versions": versions(),
    }


def finite(value: Any) -> Any:
    """Return JSON without NaN and infinities, which JSON has not: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
