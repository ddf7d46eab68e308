"""A trial in the documented JSON forms: the row of a table, and everything about it.

trial_row(trial, goals)                 # an entry of `autoprune front --format json`
trial_details(trial, job=job, graph=graph, goals=goals, same=[trial], dominated_by=[])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from autoprune.contracts.objective import Goal
from autoprune.fidelity import policy_at
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.trial import Trial, TrialState, shown


def trial_row(trial: Trial, goals: Sequence[Goal]) -> dict[str, Any]:
    """Return a trial as a JSON object: what it is, and its objectives as people see them."""
    evaluation = shown(trial) if trial.evaluation else None
    objectives = {
        goal.name: {"value": each.value, "low": each.low, "high": each.high}
        for goal in goals
        if evaluation and (each := evaluation.measurements.get(goal.name))
    }
    deployment = evaluation.deployment if evaluation else None
    return {
        "id": trial.number,
        "policy_sha256": trial.policy.sha256,
        "searcher": trial.searcher,
        "rung": trial.rung,
        "objectives": objectives,
        "policy": trial.policy.to_json(),
        **({"deployment": deployment.to_json()} if deployment else {}),
    }


def trial_details(
    trial: Trial,
    *,
    job: Job,
    graph: NetworkGraph,
    goals: Sequence[Goal],
    same: Iterable[Trial],
    dominated_by: Sequence[int],
) -> dict[str, Any]:
    """Return everything about a trial: policy in units, costs, measurements, provenance.

    `same` are all trials of its policy, itself included, by number; `dominated_by` are the
    numbers of the front's members that dominate it.
    """
    policy = policy_at(job, graph.groups, trial.policy, trial.rung)
    form = graph.form(policy)
    return {
        **trial_row(trial, goals),
        "state": str(trial.state),
        "parent": trial.parent,
        "attempts": trial.attempts,
        "failure": trial.failure.to_json() if trial.failure else None,
        "costs": form.costs.to_json(),
        "units": {name: list(each) for name, each in form.units.items()},
        "architecture": graph.groups.fingerprint,
        "dropped": sorted(trial.policy.dropped),
        "layers": {name: asdict(each) for name, each in policy.layers.items()},
        "evaluations": [
            {"trial": x.number, "rung": x.rung, "split": split, **each.to_json()}
            for x in same
            for split, each in (("search", x.evaluation), ("report", x.report))
            if each is not None
        ],
        "dominated_by": list(dominated_by),
    }


def dominators(trial: Trial, members: Iterable[Trial], goals: Sequence[Goal]) -> list[int]:
    """Return the numbers of the members that are as good in everything and better in something.

    Only what was measured on the search split counts; nothing dominates a trial that has not
    completed.
    """
    if trial.state is not TrialState.COMPLETED:
        return []
    own = _losses(trial, goals)
    return [
        member.number
        for member in members
        if (other := _losses(member, goals)) != own
        and all(a <= b for a, b in zip(other, own, strict=True))
    ]


def _losses(trial: Trial, goals: Sequence[Goal]) -> list[float]:
    assert trial.evaluation is not None, f"trial {trial.number} has no evaluation"
    return [goal.loss(trial.evaluation.value(goal.name)) for goal in goals]
