"""Whether constraints can be met: from tables where those tell, else by measuring the ends.

The ends are the dense network and the lowest policy of the space. What outputs tell is judged
on the dense network alone: what little is left of the lowest one knows nothing. The lowest one
is measured with whole kernels, so where zeros save time it is not the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoprune.contracts.executor import Evaluator, WorkItem
from autoprune.contracts.objective import Objective, Stage
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.graph.cost import CostTable
from autoprune.job.constraint import Constraint
from autoprune.job.spec import Job
from autoprune.metrics import cheap_measurements, metrics_of
from autoprune.policy import Policy
from autoprune.runtimes.catalog import create
from autoprune.trial import Measurement


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether a constraint can be met, None where only a search tells, and by what one knows."""

    constraint: Constraint
    is_reachable: bool | None
    reason: str


def reaches(
    job: Job, costs: CostTable, lowest: Policy, build: Callable[[], Evaluator]
) -> tuple[Reach, ...]:
    """Return the reach of every constraint of a job; measures only where one needs it.

    `build` makes the job's evaluator. Raises what an evaluation of the dense network raises.
    """
    if not job.constraints:
        return ()
    metrics = metrics_of(job)
    at_dense = cheap_measurements(metrics, costs.costs(Policy()))
    at_lowest = cheap_measurements(metrics, costs.costs(lowest))
    if any(each.metric not in at_dense for each in job.constraints):
        measured = _measured(job, lowest, build())
        at_dense, at_lowest = {**measured[0], **at_dense}, {**measured[1], **at_lowest}
    skipping = {x for x, each in metrics.items() if lowest.is_sparse and _skips_zeros(each)}
    return tuple(
        _reach(each, at_dense, at_lowest, is_end=each.metric in at_lowest.keys() - skipping)
        for each in job.constraints
    )


def _skips_zeros(metric: Objective) -> bool:
    """Say whether a metric is measured where single weights that left may save time."""
    return metric.runtime is not None and create(metric.runtime).skips_zeros


def _measured(
    job: Job, lowest: Policy, evaluator: Evaluator
) -> tuple[Mapping[str, Measurement], Mapping[str, Measurement]]:
    """Return what is measured of the dense network, and what of the lowest, carved alone."""
    assert isinstance(evaluator, NetworkEvaluator)
    item = WorkItem(0, Policy())
    dense = dict(evaluator.evaluate(item).measurements)
    wanted = {each.metric for each in job.constraints}
    metrics = evaluator.judge.metrics
    if not any(metrics[name].stage is Stage.NETWORK for name in wanted):
        return dense, {}
    plan = evaluator.bench.plan
    dense |= evaluator.judge.probe(plan.carve(Policy()).eval(), item)
    smallest = WorkItem(0, lowest, dense=dense)
    return dense, evaluator.judge.probe(plan.carve(lowest).eval(), smallest)


def _reach(
    constraint: Constraint,
    dense: Mapping[str, Measurement],
    lowest: Mapping[str, Measurement],
    *,
    is_end: bool,
) -> Reach:
    """Return the reach of a constraint; `is_end` says that nothing is below the lowest one."""
    name = constraint.metric
    base = dense[name].value
    ends = {"the dense network": base}
    if name in lowest:
        ends["the lowest one"] = lowest[name].value
    reason = ", ".join(f"{who} has {value:.6g}" for who, value in ends.items())
    if any(constraint.violation(value, base) == 0.0 for value in ends.values()):
        return Reach(constraint, True, reason)
    return Reach(constraint, False if is_end else None, reason)
