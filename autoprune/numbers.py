"""Numbers as people read them."""

from __future__ import annotations

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def readable(value: float, unit: str) -> str:
    """Return `value` for people: shares in percent, large counts with an SI prefix."""
    if unit == "share":
        return f"{100 * value:.2f} %"
    for size, prefix in _STEPS:
        if abs(value) >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"
