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
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Literal

from autoprune.errors import PolicyError
from autoprune.pattern import Pattern

_NOTHING: frozenset[str] = frozenset()

BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
"""Numbers of bits that a policy may ask for."""
WHOLE_NUMBERS = 8
"""The most bits that are whole numbers with a step."""
Repair = Literal["none", "bn", "ridge", "both"]
"""What is mended without training: nothing, batch norm statistics, kernels, or both."""
Quantize = Literal["int8", "int8_weights", "int4_weights"]
"""Bits of a deployment: of kernels and what they read, or of kernels alone."""
Rounding = Literal["nearest", "bias_corrected", "adaptive"]
"""How kernels are rounded to their bits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one prunable group: the share of its units that is kept, in (0, 1]."""

    keep_ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise PolicyError(f"keep_ratio must be in (0, 1], given: {self.keep_ratio!r}")


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """How one layer is stored and computed: the bits of its kernels and of what it reads, the
    rank of the two smaller layers that replace it (None: it stays one layer), and the share of
    its weights that is kept, each by itself or in a `pattern` (`autoprune.pattern`).

    Up to 8 bits are whole numbers with a scale, 16 are half precision, 32 single precision. Of a
    pattern N:M the share that is kept is N / M, whether it is given or not.
    """

    weight_bits: int = 32
    activation_bits: int = 32
    rank: int | None = None
    keep_ratio: float = 1.0
    pattern: str | None = None

    def __post_init__(self) -> None:
        for name, bits in (("weight", self.weight_bits), ("activation", self.activation_bits)):
            if bits not in BITS:
                raise PolicyError(f"{name}_bits must be one of {_listed(BITS)}, given: {bits!r}")
        if self.rank is not None and self.rank < 1:
            raise PolicyError(f"rank must be at least 1, given: {self.rank!r}")
        if not 0.0 < self.keep_ratio <= 1.0:
            raise PolicyError(f"keep_ratio must be in (0, 1], given: {self.keep_ratio!r}")
        shape = Pattern.parse(self.pattern)
        if shape.is_n_of_m:
            share = shape.kept / shape.columns
            if self.keep_ratio not in (1.0, share):
                raise PolicyError(
                    f"of {self.pattern} the share {share:g} is kept, given: {self.keep_ratio!r}"
                )
            object.__setattr__(self, "keep_ratio", share)
        elif self.pattern is not None and self.keep_ratio == 1.0:
            object.__setattr__(self, "pattern", None)

    @property
    def is_quantised(self) -> bool:
        """Say whether kernels or inputs have fewer than 32 bits."""
        return self.weight_bits < 32 or self.activation_bits < 32

    @property
    def is_sparse(self) -> bool:
        """Say whether single weights leave."""
        return self.keep_ratio < 1.0

    @property
    def kept(self) -> str:
        """What stays of the weights, in words: `all`, `0.3`, `2:4`, `0.5 in 4x1`."""
        if not self.is_sparse:
            return "all"
        share = f"{self.keep_ratio:.3g}"
        if self.pattern is None:
            return share
        return self.pattern if self.shape.is_n_of_m else f"{share} in {self.pattern}"

    @property
    def shape(self) -> Pattern:
        """The pattern in which single weights leave."""
        return Pattern.parse(self.pattern)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object without what stays as it is."""
        named = {
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "rank": self.rank,
            "keep_ratio": self.keep_ratio,
            "pattern": self.pattern,
        }
        return {name: each for name, each in named.items() if each != getattr(UNTOUCHED, name)}


UNTOUCHED = LayerDecision()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the decisions are carried out.

    `criterion` ranks units and single weights. `repair`, `rounding` and `recovery` (a plug-in's
    name) are those of the rung unless given. `pruning_net` is the name of the stored network
    that generates the weights of what is kept; None: they are the dense network's own.
    """

    criterion: str = "l1"
    repair: Repair | None = None
    rounding: Rounding | None = None
    pruning_net: str | None = None
    recovery: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return a JSON object without what is None."""
        named = {
            "repair": self.repair,
            "rounding": self.rounding,
            "pruning_net": self.pruning_net,
            "recovery": self.recovery,
        }
        return {"criterion": self.criterion, **{x: each for x, each in named.items() if each}}


@dataclass(frozen=True)
class Policy:
    """Decisions per prunable group and per layer, blocks that are left out, and the recipe.

    Groups not named stay whole, layers not named as they are, blocks not named stay.
    """

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    dropped: frozenset[str] = _NOTHING
    layers: Mapping[str, LayerDecision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("decisions", "layers"):
            given = getattr(self, name)
            ordered = MappingProxyType({each: given[each] for each in sorted(given)})
            object.__setattr__(self, name, ordered)

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
            layers = {
                sys.intern(name): _of_layer(**entry)
                for name, entry in body.get("layers", {}).items()
            }
            return cls(decisions, Recipe(**body["recipe"]), dropped, layers)
        except (KeyError, TypeError, AttributeError) as error:
            raise PolicyError(f"not a policy: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: `{"groups": {name: {"keep_ratio"}}, "recipe": {"criterion"}}`.

        A list `dropped` comes in where blocks are left out, `layers: {name: {"weight_bits",
        "activation_bits", "rank", "keep_ratio", "pattern"}}` where layers change, and in the
        recipe what differs.
        """
        groups = {name: {"keep_ratio": each.keep_ratio} for name, each in self.decisions.items()}
        dropped = {"dropped": sorted(self.dropped)} if self.dropped else {}
        layers = {name: each.to_json() for name, each in self.layers.items()}
        rest = {**dropped, **({"layers": layers} if layers else {})}
        return {"groups": groups, "recipe": self.recipe.to_json(), **rest}

    @property
    def is_dense(self) -> bool:
        """Say whether the policy leaves the network as it is."""
        return not self.removes and not self.layers

    @property
    def removes(self) -> bool:
        """Say whether units or blocks leave."""
        return bool(self.decisions or self.dropped)

    @property
    def changes_weights(self) -> bool:
        """Say whether anything leaves that repair can make good."""
        return self.removes or self.factorises or self.is_sparse

    @property
    def factorises(self) -> bool:
        """Say whether any layer becomes two of lower rank."""
        return any(each.rank is not None for each in self.layers.values())

    @property
    def is_sparse(self) -> bool:
        """Say whether single weights of any layer leave."""
        return any(each.is_sparse for each in self.layers.values())

    @property
    def is_quantised(self) -> bool:
        """Say whether any layer has fewer than 32 bits."""
        return any(each.is_quantised for each in self.layers.values())

    def with_recipe_in_use(self) -> Policy:
        """Return the same policy, its recipe without what it never comes to."""
        rounds = any(each.weight_bits <= WHOLE_NUMBERS for each in self.layers.values())
        recipe = replace(
            self.recipe,
            repair=self.recipe.repair if self.changes_weights else None,
            rounding=self.recipe.rounding if rounds else None,
            recovery=None if self.is_dense else self.recipe.recovery,
        )
        return self if recipe == self.recipe else replace(self, recipe=recipe)

    def layer(self, name: str) -> LayerDecision:
        """Return the decision about a layer; the one that changes nothing for others."""
        return self.layers.get(name, UNTOUCHED)

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
def _of_layer(**entry: Any) -> LayerDecision:
    """Return one object for equal decisions about layers."""
    return LayerDecision(**entry)


@lru_cache(maxsize=2**16)
def _decision(keep_ratio: float) -> Decision:
    """Return one object for equal decisions: a search remembers a great many of them."""
    return Decision(keep_ratio)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
