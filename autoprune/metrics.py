"""What a job measures: its objectives, and whatever its constraints name. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autoprune import plugins
from autoprune.contracts.objective import Goal, Objective, Stage, Subject
from autoprune.errors import PluginError, suggestion
from autoprune.graph.cost import Costs
from autoprune.job.spec import Job, PluginSpec
from autoprune.trial import Evaluation, Measurement


def metrics_of(job: Job) -> dict[str, Objective]:
    """Return everything a job measures, by metric name: objectives, then what constraints name."""
    objectives = [plugins.create("objective", spec) for spec in job.objectives]
    metrics: dict[str, Objective] = {each.name: each for each in objectives}
    missing = [each.metric for each in job.constraints if each.metric not in metrics]
    for name in missing:
        metrics[name] = plugins.create("objective", PluginSpec(name=metric_plugin(name)))
    return metrics


def metric_plugin(metric: str) -> str:
    """Return the built-in objective that reports `metric` (`latency_ms` → `latency`).

    Raises `PluginError` that lists the metrics.
    """
    by_metric = {plugins.load("objective", name).name: name for name in plugins.names("objective")}
    if metric not in by_metric:
        rule = suggestion(metric, by_metric)
        raise PluginError(f"no objective measures {metric!r}; {rule}")
    return by_metric[metric]


def goals_of(job: Job) -> tuple[Goal, ...]:
    """Return the job's objectives as goals, their references still unknown."""
    objectives = [plugins.create("objective", spec) for spec in job.objectives]
    return tuple(Goal(each.name, each.unit, each.goal) for each in objectives)


def referenced(job: Job, dense: Evaluation, num_classes: int) -> tuple[Goal, ...]:
    """Return the job's goals with reference points, given the dense network's evaluation."""
    objectives = [plugins.create("objective", spec) for spec in job.objectives]
    return tuple(
        replace(goal, reference=objective.reference(dense.value(goal.name), num_classes))
        for goal, objective in zip(goals_of(job), objectives, strict=True)
    )


def cheap_measurements(metrics: dict[str, Objective], costs: Costs) -> dict[str, Measurement]:
    """Return the metrics that need nothing but the cost table."""
    subject = Subject(costs)
    return {
        name: metric.measure(subject)
        for name, metric in metrics.items()
        if metric.stage is Stage.COSTS
    }


def constrained(job: Job, evaluation: Evaluation, dense: Mapping[str, Measurement]) -> Evaluation:
    """Return the evaluation with the constraints that it breaks, hard and soft.

    `dense` is what was measured of the dense network; constraints on metrics that are not
    measured here, or not there, are left out.
    """
    amounts = {
        each: each.violation(evaluation.value(each.metric), dense[each.metric].value)
        for each in job.constraints
        if each.metric in evaluation.measurements and each.metric in dense
    }
    broken = {each: amount for each, amount in amounts.items() if amount > 0}
    return replace(
        evaluation,
        violations={each.text: amount for each, amount in broken.items() if not each.is_soft},
        misses={each.text: amount for each, amount in broken.items() if each.is_soft},
    )
