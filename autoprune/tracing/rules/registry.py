"""The table of rules, filled by the decorator `rule`."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.tracing.trace import Call, Trace

Rule = Callable[[Trace, Call], None]

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the ATen operations of these names."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register
