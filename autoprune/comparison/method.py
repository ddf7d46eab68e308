"""What is compared: a criterion, and the recovery that trains what it leaves.

    methods = methods_of(("l1", "random"), ("finetune", "rigl"))      # all four pairs
    methods[1].applied_to(policy)                                     # by l1, trained by rigl

Which recoveries can serve follows from what leaves (`require_recoveries`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autoprune import plugins
from autoprune.contracts.recovery import Recovery
from autoprune.errors import InputError, PluginError
from autoprune.evaluation.recovery import obstacle
from autoprune.job.spec import RungSpec
from autoprune.policy import Policy

YARDSTICK = "random"
"""The criterion that is always compared: whoever is no better has found nothing."""


@dataclass(frozen=True, slots=True)
class Method:
    """A criterion and a recovery by their names; without one it is the rung's own."""

    criterion: str
    recovery: str | None = None

    def __str__(self) -> str:
        return self.criterion if self.recovery is None else f"{self.criterion} with {self.recovery}"

    @property
    def yardstick(self) -> Method:
        """What it must beat: random choice, and the same recovery."""
        return replace(self, criterion=YARDSTICK)

    def applied_to(self, policy: Policy) -> Policy:
        """Return the policy with what leaves chosen, and what stays trained, by this method."""
        recipe = replace(policy.recipe, criterion=self.criterion, recovery=self.recovery)
        return replace(policy, recipe=recipe)

    def to_json(self) -> dict[str, str | None]:
        """Return a JSON object."""
        return {"criterion": self.criterion, "recovery": self.recovery}


def methods_of(criteria: Iterable[str], recoveries: Sequence[str]) -> tuple[Method, ...]:
    """Return all pairs, those of a criterion side by side; without recoveries the rung's own."""
    named: Sequence[str | None] = recoveries or (None,)
    return tuple(Method(criterion, each) for criterion in criteria for each in named)


def require_recoveries(named: Sequence[str], rung: RungSpec, policies: Sequence[Policy]) -> None:
    """Raise `InputError` for the first recovery that makes no sense of what leaves.

    Without any named it is about the rung's own, of which that is refused alone which cannot run.
    """
    own = () if named or not rung.trains else (rung.recovery.name,)
    for name in (*named, *own):
        kind: type[Recovery] = plugins.load("recovery", name)
        reason = _impossible(kind, rung, policies) or (_idle(kind, policies) if named else None)
        if reason is not None:
            raise InputError(
                f"recovery {name!r} cannot serve here: {reason}; recoveries that can: "
                f"{', '.join(_fitting(rung, policies))}"
            )


def _impossible(kind: type[Recovery], rung: RungSpec, policies: Sequence[Policy]) -> str | None:
    """Return why networks cannot be trained so; None where they can."""
    reasons = (obstacle(kind, each, rung) for each in policies)
    return next((f"it {reason}" for reason in reasons if reason), None)


def _idle(kind: type[Recovery], policies: Sequence[Policy]) -> str | None:
    """Return why a recovery would do what `finetune` does; None where it does more."""
    if not kind.chooses_weights or kind.begins_dense or all(each.is_sparse for each in policies):
        return None
    return (
        "it chooses single weights while it trains, and whole units alone leave, so that it "
        "would be finetune under another name (--of weights lets single weights leave)"
    )


def _fitting(rung: RungSpec, policies: Sequence[Policy]) -> list[str]:
    """Return the built-in recoveries that can serve."""
    fitting = []
    for name in plugins.names("recovery"):
        try:
            kind: type[Recovery] = plugins.load("recovery", name)
        except PluginError:  # one whose packages are missing cannot serve either
            continue
        if _impossible(kind, rung, policies) is None and _idle(kind, policies) is None:
            fitting.append(name)
    return fitting
