"""What exporters of runs know of a trial beyond its log, and how they say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from autoprune.contracts.exporter import Chosen
from autoprune.graph.cost import Costs
from autoprune.policy import Policy
from autoprune.trial import Trial

if TYPE_CHECKING:
    from autoprune.run_view import RunView


@dataclass(frozen=True, slots=True)
class Form:
    """The network of a trial in numbers, with the bits that its rung gives it.

    `units` are kept and all units of every prunable group; `gone` are layers within dropped
    blocks.
    """

    policy: Policy
    units: Mapping[str, tuple[int, int]]
    gone: frozenset[str]
    costs: Costs


def form_of(run: RunView, trial: Trial) -> Form:
    """Return what a trial's policy makes of the network."""
    groups, policy = run.graph.groups, run.as_evaluated(trial)
    # Nothing is left of groups within dropped blocks.
    kept = groups.kept_units(policy) | dict.fromkeys(groups.vanishing(policy), 0)
    units = {each.name: (kept[each.name], each.units) for each in groups.prunable}
    return Form(policy, units, groups.gone_layers(policy), run.graph.costs.costs(policy))


def costs_json(costs: Costs) -> dict[str, int]:
    """Return costs under the names of `autoprune show --format json`."""
    return {
        "macs": costs.macs,
        "params": costs.params,
        "size_bytes": costs.size_bytes,
        "bitops": costs.bitops,
    }


def versions() -> dict[str, str]:
    """Return the versions of what writes the file; nothing is imported for it."""
    return {name: version(name) for name in ("autoprune", "torch")}


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
