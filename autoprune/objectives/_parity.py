"""Rates by class, compared between groups."""

from __future__ import annotations

from typing import ClassVar

from autoprune.objectives._groups import GroupObjective


class Parity(GroupObjective):
    """The widest gap of a rate that is taken class by class, one against the rest.

    Groups made from the true class are passed over: no network that is right treats them alike.
    """

    needs_groups: ClassVar[bool] = True


def compared(classes: int) -> range:
    """Return the classes to compare: of two, one mirrors the other, and the second stands."""
    return range(1 if classes == 2 else 0, classes)
