"""Criteria and the network that they are to judge: who can, who cannot and why, their scores.

obstacle("bn_scale", evidence)                # "it has no batch norms with scales", or None
gathered(["l1", "taylor"], evidence, seed=0)  # name → ScoreTable, or InputError
weigh("l1", evidence, seed=0)                 # SaliencyTable: what single weights are worth
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoprune import plugins
from autoprune.contracts.criterion import LACKING, Criterion, WeightCriterion
from autoprune.errors import InputError, PluginError, PolicyError
from autoprune.job.spec import PluginSpec
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import SaliencyTable, ScoreTable, score_groups, weigh_kernels


def obstacle(name: str, evidence: Evidence, *, of_weights: bool = False) -> str | None:
    """Return in words why a criterion cannot judge this network; None where it can.

    With `of_weights` it is single weights that have to be judged. Raises `PluginError` for a
    criterion that cannot be loaded.
    """
    criterion: type[Criterion] = plugins.load("criterion", name)
    if of_weights and not _judges_weights(name):
        return "it judges whole units, not single weights"
    missing = criterion.needs - evidence.has
    return LACKING[min(missing)] if missing else None


def sorted_out(
    evidence: Evidence, *, of_weights: bool = False
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the built-in criteria that can judge this network, and the others with the reason."""
    reasons = {name: _reason(name, evidence, of_weights) for name in plugins.names("criterion")}
    fitting = tuple(name for name, reason in reasons.items() if reason is None)
    return fitting, {name: reason for name, reason in reasons.items() if reason is not None}


def require_fit(names: Iterable[str], evidence: Evidence, *, of_weights: bool = False) -> None:
    """Raise `InputError` for the first criterion that cannot judge this network.

    `PluginError` for one that cannot be loaded.
    """
    for name in names:
        reason = obstacle(name, evidence, of_weights=of_weights)
        if reason is not None:
            fitting, _ = sorted_out(evidence, of_weights=of_weights)
            raise InputError(
                f"criterion {name!r} cannot judge this network: {reason}; "
                f"criteria that can: {', '.join(fitting)}"
            )


def require_weight_criteria(names: Iterable[str]) -> None:
    """Raise `InputError` for the first criterion that judges whole units alone."""
    for name in names:
        if not _judges_weights(name):
            fitting = filter(_judges_weights, plugins.names("criterion"))
            raise InputError(
                f"criterion {name!r} judges whole units, and this space lets single weights "
                f"leave; those that can: {', '.join(fitting)}"
            )


def _judges_weights(name: str) -> bool:
    return issubclass(plugins.load("criterion", name), WeightCriterion)


def gathered(names: Iterable[str], evidence: Evidence, *, seed: int) -> dict[str, ScoreTable]:
    """Return the scores by every criterion; raises as `require_fit`, before any is asked."""
    wanted = tuple(names)
    require_fit(wanted, evidence)
    return {name: gather(name, evidence, seed=seed) for name in wanted}


def gather(name: str, evidence: Evidence, *, seed: int) -> ScoreTable:
    """Return the scores by one criterion, which can judge this network."""
    criterion: Criterion = plugins.create("criterion", PluginSpec(name=name), seed=seed)
    return score_groups(criterion, evidence)


def weigh(name: str, evidence: Evidence, *, seed: int) -> SaliencyTable:
    """Return what single weights are worth by one criterion, which can judge this network.

    Raises `PolicyError` for one that judges whole units alone.
    """
    criterion: Criterion = plugins.create("criterion", PluginSpec(name=name), seed=seed)
    if not isinstance(criterion, WeightCriterion):
        raise PolicyError(f"criterion {name!r} judges whole units, not single weights")
    return weigh_kernels(criterion, evidence)


def remarks(tables: Mapping[str, ScoreTable]) -> tuple[str, ...]:
    """Return what a user should know of groups that a criterion tells nothing of."""
    return tuple(
        f"{name} tells nothing of {', '.join(table.fallen_back)}: ranked by the L1 norm there"
        for name, table in tables.items()
        if table.fallen_back
    )


def _reason(name: str, evidence: Evidence, of_weights: bool) -> str | None:
    try:
        return obstacle(name, evidence, of_weights=of_weights)
    except PluginError as error:  # one whose packages are missing must not stop the others
        return str(error)
