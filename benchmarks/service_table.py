"""Rows of what was measured, beside what was aimed at, as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "| | measured | target |\n|---|---|---|"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, and what it should be at `least` or at `most`; `form` says how it is written."""

    what: str
    value: float
    form: str
    least: float | None = None
    most: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """Return the line of the table; a target that is missed is said so."""
        target = ""
        if self.least is not None:
            target = f"≥ {self.form.format(self.least)}"
        if self.most is not None:
            target = f"≤ {self.form.format(self.most)}"
        if self.least is not None and self.least == self.most:
            target = self.form.format(self.most)
        measured = self.form.format(self.value) + (f"; {self.note}" if self.note else "")
        if self.is_missed:
            measured = f"**{measured}, missed**"
        return f"| {self.what} | {measured} | {target} |"

    @property
    def is_missed(self) -> bool:
        """Say whether the figure is not what it should be."""
        is_less = self.least is not None and self.value < self.least
        return is_less or (self.most is not None and self.value > self.most)


def left_out(what: str, why: str) -> str:
    """Return a line for what could not be measured."""
    return f"| {what} | not measured: {why} | |"
