"""Provenance as an export carries it, for tests that need no run."""

from __future__ import annotations

from typing import Any

from autoprune.graph.group import GroupTable
from autoprune.job.spec import ModelSpec
from autoprune.policy import Policy


def provenance(
    spec: ModelSpec, groups: GroupTable, policy: Policy, input_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return what `autoprune.load` needs to build a pruned network with ten classes again."""
    return {
        "job": "test",
        "model": spec.model_dump(mode="json", by_alias=True),
        "policy": policy.to_json(),
        "groups": groups.to_json(),
        "foldable": [],
        "num_classes": 10,
        "input_shape": list(input_shape),
    }
