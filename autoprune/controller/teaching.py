"""Who of a job's own networks teaches the next one: self-distillation along the front."""

from __future__ import annotations

from autoprune.contracts.objective import Stage
from autoprune.controller.state import JobState
from autoprune.fidelity import policy_at
from autoprune.policy import Policy


def teacher_of(state: JobState, policy: Policy, rung: int) -> int | None:
    """Return the best completed trial of a rung that is larger than a policy to be trained there.

    Larger in stored bytes; the best by the first objective that outputs tell, else by the first
    one. None where the rung does not learn from the front, or no trial is larger yet.
    """
    spec = state.job.rungs[rung].distill
    if spec is None or spec.teacher != "front":
        return None
    graph = state.preparation.graph

    def size(one: Policy) -> int:
        return graph.costs.costs(policy_at(state.job, graph.groups, one, rung)).size_bytes

    own = size(policy)
    told = (x for x in state.goals if state.metrics[x.name].stage is Stage.PREDICTIONS)
    goal = next(told, state.goals[0])
    larger = [
        (goal.loss(trial.evaluation.value(goal.name)), trial.number)
        for trial in state.completed(rung)
        if trial.evaluation and trial.evaluation.weights and size(trial.policy) > own
    ]
    return min(larger)[1] if larger else None
