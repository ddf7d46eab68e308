"""The search space that a job asks for, over the groups of its network."""

from __future__ import annotations

from autoprune import plugins
from autoprune.graph.group import GroupTable
from autoprune.job.spec import Job
from autoprune.space import SearchSpace


def is_automatic(job: Job) -> bool:
    """Say whether the job's space rounds to what the device likes best."""
    return job.space.options.get("round_to") == "auto"


def space_of(job: Job, groups: GroupTable, multiple: int) -> SearchSpace:
    """Return the job's space; `multiple` is what `round_to: auto` stands for.

    Raises `InputError` where the network has no such space.
    """
    options = dict(job.space.options)
    if is_automatic(job):
        options["round_to"] = multiple
    spec = job.space.model_copy(update={"options": options})
    space: SearchSpace = plugins.create("space", spec, groups)
    return space
