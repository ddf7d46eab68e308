"""The rule of last resort."""

from __future__ import annotations

from autoprune.tracing.trace import Call, Trace

PASSES_THROUGH = "it passes through"


def unknown(trace: Trace, call: Call) -> None:
    """Keep everything that goes through an operation without a rule."""
    for each in call.inputs:
        trace.freeze_all(each, f"{PASSES_THROUGH} aten.{call.name}")
