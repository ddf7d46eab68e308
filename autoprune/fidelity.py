"""What a rung makes of a policy before it is evaluated. Torch-free."""

from __future__ import annotations

from autoprune.graph.group import GroupTable
from autoprune.graph.uniform_bits import with_bits
from autoprune.job.spec import Job
from autoprune.policy import Policy


def policy_at(job: Job, groups: GroupTable, policy: Policy, rung: int) -> Policy:
    """Return a policy with the bits that a rung gives it.

    At the lowest rung the dense network stays as it is: all others are compared with it.
    """
    if rung == 0 and policy.is_dense:
        return policy
    return with_bits(policy, groups, job.rungs[rung].quantize)
