"""A small made-up run: a log of made-up measurements, as a search would write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.contracts.store import Entry
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job
from autoprune.policy import Policy
from autoprune.run import Run
from autoprune.store import entries
from autoprune.store.location import STORE_NAME
from autoprune.store.sql import SqlStore
from autoprune.testing.problem import small_problem
from autoprune.trial import Evaluation, Failure, FailureKind, Measurement

PROBLEM = small_problem()
GRAPH = NetworkGraph(PROBLEM.groups, PROBLEM.costs)
LABELS = ("uniform", "random", "nsga2", "tpe")
EVIL = "<script>alert(1)</script>"


def job(objectives: Sequence[str] = ("error", "macs"), rungs: int = 1) -> dict[str, Any]:
    return {
        "name": "digits",
        "model": {"name": "digits_cnn", "checkpoint": f"/tmp/{EVIL}"},
        "data": {"name": "digits"},
        "objectives": list(objectives),
        "searchers": ["nsga2", "tpe"],
        "rungs": [{}] * rungs,
    }


def evaluation(policy: Policy, seed: int, bias: float = 0.0) -> Evaluation:
    """Return plausible values: errors grow as units leave, with noise of one seed."""
    ratios = np.array([policy.keep_ratio(group.name) for group in PROBLEM.groups.prunable])
    noise = float(np.random.default_rng(seed).uniform(0.0, 0.08)) * float(1.0 - ratios.mean())
    error = 0.03 + 0.6 * float(np.mean((1 - ratios) ** 2)) + noise + bias
    costs = GRAPH.costs.costs(policy)
    return Evaluation(
        {
            "error": Measurement(error, error - 0.01, error + 0.012),
            "macs": Measurement(float(costs.macs)),
            "size_bytes": Measurement(float(costs.size_bytes)),
        }
    )


def log(count: int = 30, *, rungs: int = 1, is_reported: bool = True) -> list[Entry]:
    """Return a run of the dense network and `count` trials, some failed or infeasible."""
    rng = np.random.default_rng(0)
    policies = [Policy()]
    made = [entries.opened(), entries.asked(0, Policy(), "dense", rung=0, parent=None, batch=0)]
    made.append(entries.completed(0, evaluation(Policy(), 0), attempt=1))
    for number in range(1, count + 1):
        ratios = {g.name: float(rng.uniform(0.15, 1.0)) for g in PROBLEM.groups.prunable}
        policy = PROBLEM.groups.canonical(Policy.from_keep_ratios(ratios))
        policies.append(policy)
        label = LABELS[number % 4]
        made.append(entries.asked(number, policy, label, rung=0, parent=None, batch=0))
        made.append(ended(number, policy))
    done = [0] + [each.trial for each in made if each.kind == "COMPLETED" and each.trial]
    numbers = {number: policies[number] for number in done}
    if rungs > 1:
        numbers = {0: Policy()}
        for number, parent in enumerate(done[1::2], count + 1):
            body = {"rung": 1, "parent": parent, "batch": 0}
            made.append(entries.asked(number, policies[parent], LABELS[parent % 4], **body))
            value = evaluation(policies[parent], number, -0.01)
            made.append(entries.completed(number, value, attempt=1))
            numbers[number] = policies[parent]
    if is_reported:
        made += [
            entries.reported(number, evaluation(policy, number, 0.004))
            for number, policy in numbers.items()
        ]
    return [*made, entries.closed("finished")]


def ended(number: int, policy: Policy) -> Entry:
    if number % 11 == 0:
        return entries.failed(number, Failure(FailureKind.CRASH, "signal 11"), attempt=3)
    value = evaluation(policy, number)
    if number % 13 == 0:
        return entries.infeasible(number, Evaluation(value.measurements, {"macs <= 1": 1.0}))
    return entries.completed(number, value, attempt=1)


def stored(
    directory: Path, spec: dict[str, Any], made: Sequence[Entry], graph: NetworkGraph = GRAPH
) -> Run:
    """Return the run as it is read back from a store."""
    body = Job.model_validate(spec).to_json()
    preparation = {"graph": graph.to_json(), "num_classes": 10, "multiple": 1}
    with SqlStore(directory / STORE_NAME) as store:
        store.create_job("digits", {"job": body, "preparation": preparation})
        store.append("digits", made)
    return Run.open(directory)
