"""Constraints in words: `macs <= 0.6 * dense`, `latency_ms <= 4.0`, `error <= dense + 0.02`.

A hard one keeps what breaks it off the front. A soft one, `{soft: "latency_ms <= 4.0"}`, only
says what to aim at: searchers heed it, and of a front's networks those are picked that keep it.

constraint = Constraint.parse("macs <= 0.6 * dense")
constraint.violation(value=30e6, dense=40e6)       # 0.25: a quarter over the bound
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# Possessive: otherwise a thousand digits and a typing error take a million attempts.
_NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"
_PATTERN = re.compile(
    rf"^\s*(?P<metric>[A-Za-z_]\w*)\s*(?P<relation><=|>=)\s*(?:"
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<dense>dense)(?:\s*(?P<sign>[-+])\s*(?P<offset>{_NUMBER}))?"
    rf"|(?P<bound>{_NUMBER}))\s*$"
)
_RULE = (
    "write METRIC <= NUMBER, METRIC <= NUMBER * dense or METRIC <= dense + NUMBER "
    "(>= and - work too); {soft: ...} around it for what may be broken"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on one metric: `relation` `factor` * dense + `offset`."""

    text: str
    metric: str
    relation: Literal["<=", ">="]
    factor: float
    offset: float
    is_soft: bool = False

    @classmethod
    def parse(cls, text: object) -> Constraint:
        """Read a constraint; raises `ValueError` that shows the allowed forms."""
        if isinstance(text, Constraint):
            return text
        if isinstance(text, Mapping) and set(text) == {"soft"}:
            return replace(cls.parse(text["soft"]), is_soft=True)
        match = _PATTERN.match(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(_RULE)
        relation: Literal["<=", ">="] = "<=" if match["relation"] == "<=" else ">="
        if match["dense"]:
            offset = float((match["sign"] or "+") + (match["offset"] or "0").lstrip("+"))
            factor = float(match["factor"] or 1)
        else:
            factor, offset = 0.0, float(match["bound"])
        if not (math.isfinite(factor) and math.isfinite(offset)):
            raise ValueError("a bound is a finite number")
        return cls(" ".join(str(text).split()), match["metric"], relation, factor, offset)

    def bound(self, dense: float) -> float:
        """Return the bound in the metric's unit, given the dense network's value."""
        return self.factor * dense + self.offset

    def violation(self, value: float, dense: float) -> float:
        """Return by how much `value` breaks the bound, relative to it; 0.0 if it holds."""
        bound = self.bound(dense)
        excess = value - bound if self.relation == "<=" else bound - value
        return max(0.0, excess / (abs(bound) or 1.0))

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(_plain)
        )


def _plain(constraint: Constraint) -> str | dict[str, str]:
    """Return the form in which a job file says it."""
    return {"soft": constraint.text} if constraint.is_soft else constraint.text
