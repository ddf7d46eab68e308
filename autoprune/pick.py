"""How one trial is named: by its number, or by what is wanted of it.

Pick.parse("17").number                              # 17
Pick.parse("knee").among(front)                      # the best trade-off of a front
Pick.parse("weights:error=2,macs=1").among(front)    # a Trial
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from autoprune.errors import InputError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RULE = "allowed: a trial number, knee, best:METRIC, weights:METRIC=WEIGHT,METRIC=WEIGHT"
_NUMBER = re.compile(r"[0-9]{1,18}")
_BEST = re.compile(r"best:(\w+)")


class Picking(Protocol[T_co]):
    """What one member can be picked from."""

    def knee(self) -> T_co:
        """Return the best trade-off."""

    def best(self, metric: str) -> T_co:
        """Return the best in one objective."""

    def weighted(self, weights: Mapping[str, float]) -> T_co:
        """Return the one with the smallest weighted sum."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A trial's `number`, the `best` by a metric, or `weights` of metrics; none of them: the knee.

    Only one of them is set.
    """

    number: int | None = None
    best: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Pick:
        """Read a trial number, `knee`, `best:METRIC` or `weights:METRIC=W,…`.

        Raises `InputError` for another form, and for weights that are no numbers.
        """
        if _NUMBER.fullmatch(text):
            return cls(number=int(text))
        if text == "knee":
            return cls()
        if match := _BEST.fullmatch(text):
            return cls(best=match[1])
        if text.startswith("weights:"):
            return cls(weights=_weights(text.removeprefix("weights:")))
        raise InputError(f"cannot pick {text!r}; {_RULE}")

    def among(self, front: Picking[T]) -> T:
        """Return the member of a `Front` that is wanted, of a `FrontTable` its number.

        A trial's own number is none of its business. Raises `InputError` for an empty front, a
        metric that is no objective, and weights below 0 or all 0.
        """
        assert self.number is None, "a trial's number picks from all trials, not from a front"
        if self.best is not None:
            return front.best(self.best)
        return front.weighted(self.weights) if self.weights else front.knee()


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for part in text.split(","):
        metric, _, weight = part.partition("=")
        try:
            weights[metric] = float(weight)
        except ValueError:
            raise InputError(
                f"the weight of {metric!r} must be a number, given: {weight!r}; {_RULE}"
            ) from None
    return weights
