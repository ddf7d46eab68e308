"""What the searchers of a job are given."""

from __future__ import annotations

from autoprune.contracts.searcher import SearchProblem
from autoprune.evaluation.preparation import Preparation
from autoprune.job.spec import Job
from autoprune.job_space import space_of
from autoprune.metrics import goals_of
from autoprune.preflight import criteria_of


def problem_of(job: Job, preparation: Preparation) -> SearchProblem:
    """Return the search problem of a job before its dense network is measured.

    A job that runs in serial is timeless: it can be repeated exactly. Raises `InputError`
    where the space cannot be built.
    """
    graph = preparation.graph
    return SearchProblem(
        space_of(job, preparation.graph.groups, preparation.multiple),
        goals_of(job),
        graph.groups,
        graph.costs,
        job.budget.trials,
        preparation.scores[criteria_of(job)[0]],
        is_timeless=job.resources.workers == "serial",
    )
