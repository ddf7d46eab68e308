"""The policy: what to do to a network, as a frozen, hashable value.

A policy is *canonical* when every `keep_ratio` equals a whole number of kept units
divided by the units of its group, and groups that stay whole are left out; equal
networks then have equal hashes (`GroupTable.canonical` produces this form).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from autoprune.errors import PolicyError

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one prunable group: the share of its units that is kept, in (0, 1]."""

    keep_ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise PolicyError(f"keep_ratio must be in (0, 1], given: {self.keep_ratio!r}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the decisions are carried out.

    `criterion` ranks the units of a group. `pruning_net` is the name of the stored network
    that generates the weights of what is kept; None: they are the dense network's own.
    """

    criterion: str = "l1"
    pruning_net: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return a JSON object without what is None."""
        net = {} if self.pruning_net is None else {"pruning_net": self.pruning_net}
        return {"criterion": self.criterion, **net}


@dataclass(frozen=True)
class Policy:
    """Decisions per prunable group, blocks that are left out, and the recipe.

    Groups not named stay whole, blocks not named stay.
    """

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    dropped: frozenset[str] = _NOTHING

    def __post_init__(self) -> None:
        ordered = {name: self.decisions[name] for name in sorted(self.decisions)}
        object.__setattr__(self, "decisions", MappingProxyType(ordered))

    @classmethod
    def from_keep_ratios(cls, keep_ratios: Mapping[str, float], criterion: str = "l1") -> Policy:
        """Return the policy that keeps the given share of each named group."""
        decisions = {name: _decision(ratio) for name, ratio in keep_ratios.items()}
        return cls(decisions, Recipe(criterion=criterion))

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Policy:
        """Rebuild a policy from `to_json`; raises `PolicyError` on anything else."""
        try:
            decisions = {
                sys.intern(name): _decision(**entry) for name, entry in body["groups"].items()
            }
            dropped = frozenset(body["dropped"]) if "dropped" in body else _NOTHING
            return cls(decisions, Recipe(**body["recipe"]), dropped)
        except (KeyError, TypeError, AttributeError) as error:
            raise PolicyError(f"not a policy: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: `{"groups": {name: {"keep_ratio"}}, "recipe": {"criterion"}}`.

        A list `dropped` comes in where blocks are left out, `pruning_net` in the recipe
        where weights are generated.
        """
        groups = {name: {"keep_ratio": each.keep_ratio} for name, each in self.decisions.items()}
        dropped = {"dropped": sorted(self.dropped)} if self.dropped else {}
        return {"groups": groups, "recipe": self.recipe.to_json(), **dropped}

    @property
    def is_dense(self) -> bool:
        """Say whether the policy leaves the network as it is."""
        return not self.decisions and not self.dropped

    def keep_ratio(self, group: str) -> float:
        """Return the kept share of `group`; 1.0 where the policy does not name it."""
        decision = self.decisions.get(group)
        return 1.0 if decision is None else decision.keep_ratio

    @cached_property
    def sha256(self) -> str:
        """Hash of the JSON form; identifies the network when the policy is canonical."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        # One text for equal policies: searchers and the history remember all of them.
        return sys.intern(hashlib.sha256(text.encode()).hexdigest())

    def __hash__(self) -> int:
        return int(self.sha256[:16], 16)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot cross a process border; the JSON form can.
        return (Policy.from_json, (self.to_json(),))


@lru_cache(maxsize=2**16)
def _decision(keep_ratio: float) -> Decision:
    """Return one object for equal decisions: a search remembers a great many of them."""
    return Decision(keep_ratio)
