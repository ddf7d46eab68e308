"""One rule per kind of operation: how labels flow, what is tied, what stays whole."""

from __future__ import annotations

import torch

from autoprune.tracing.rules import contraction, elementwise, indexing, layout, reduction
from autoprune.tracing.rules.registry import RULES, Rule
from autoprune.tracing.rules.unknown import unknown

__all__ = ["Rule", "contraction", "find_rule", "indexing", "layout", "reduction", "unknown"]


def find_rule(name: str, func: torch._ops.OpOverload) -> Rule | None:
    """Return the rule of an operation; one that works in place has that of its plain form."""
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in func.tags:
        return elementwise.pointwise
    return rule
