"""The policy that all methods share where single weights leave: of every kernel the same share.

weight_targets((0.1, 0.3), None, found)      # each weight by itself
weight_targets((0.5,), "2:4", found)         # of every four in a row two
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.comparison.target import Target
from autoprune.errors import InputError
from autoprune.fidelity import policy_at
from autoprune.graph.group import GroupTable
from autoprune.job_space import space_of
from autoprune.policy import LayerDecision, Policy
from autoprune.preflight import Preflight
from autoprune.space import SearchSpace

# Of whole layers so many are named.
_NAMED = 3


def weight_targets(
    shares: Sequence[float], pattern: str | None, found: Preflight
) -> tuple[Target, ...]:
    """Return a target for every share: it stays of the weights of every kernel, and all units do.

    Kernels are those about which a space `mixed` decides, by the job's `protect` and its bits.
    Raises `InputError` where no weight of any kernel may leave.
    """
    space = _space(shares, pattern, found)
    return tuple(_target(share, pattern, space, found) for share in shares)


def _space(shares: Sequence[float], pattern: str | None, found: Preflight) -> SearchSpace:
    """Return the space of the comparison, in which layers may keep these shares, or all."""
    job, groups = found.job, found.preparation.graph.groups
    entries = [share if pattern is None else f"{pattern}@{share}" for share in shares]
    # Whole layers come last: those that are protected keep the most that is listed.
    options = {**job.space.options, "weights": [*entries, 1.0]}
    space = job.space.model_copy(update={"options": options})
    return space_of(job.model_copy(update={"space": space}), groups, found.preparation.multiple)


def _target(share: float, pattern: str | None, space: SearchSpace, found: Preflight) -> Target:
    graph = found.preparation.graph
    decision = LayerDecision(keep_ratio=share, pattern=pattern)
    wanted = Policy(layers={each.name: decision for each in graph.groups.layers})
    nearest = graph.groups.canonical(space.decode(space.nearest(wanted)))
    policy = policy_at(found.job, graph.groups, nearest, 0)
    if not policy.is_sparse:
        raise InputError(
            f"no kernel of this network may keep {decision.kept} of its weights: all layers are "
            "protected, or cannot be taken apart; name fewer in space.protect, or leave the "
            "pattern out"
        )
    stays = f"every kernel keeps {_kept(decision)}{_exceptions(graph.groups, policy)}"
    cost = graph.costs.costs(policy).params
    return Target(share, share, stays, policy, "params", cost, found.dense.params)


def _kept(decision: LayerDecision) -> str:
    shape = decision.shape
    if shape.is_n_of_m:
        return f"{shape.kept} of every {shape.columns} weights in a row"
    if shape.is_blocks:
        return f"{decision.keep_ratio} of its blocks of {decision.pattern}"
    return f"{decision.keep_ratio} of its weights"


def _exceptions(groups: GroupTable, policy: Policy) -> str:
    """Return in words which layers keep all of their weights; nothing where none does."""
    whole = [each.name for each in groups.layers if not policy.layer(each.name).is_sparse]
    if not whole:
        return ""
    return f" (left whole: {', '.join(whole) if len(whole) <= _NAMED else f'{len(whole)} layers'})"
