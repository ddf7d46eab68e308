"""A catalog of networks on which group discovery and pruning are tested.

Weights are random. Libraries that bring networks are imported when one is built.
"""

from __future__ import annotations

from tests.zoo import cifar, text, timm_families, torchvision_families
from tests.zoo.base import Entry, Example, call, enliven

__all__ = ["ENTRIES", "Entry", "Example", "call", "enliven", "entry"]

ENTRIES: tuple[Entry, ...] = (
    *torchvision_families.ENTRIES,
    *cifar.ENTRIES,
    *timm_families.ENTRIES,
    *text.ENTRIES,
)

_BY_NAME = {one.name: one for one in ENTRIES}


def entry(name: str) -> Entry:
    """Return the entry of that name; KeyError where there is none."""
    return _BY_NAME[name]
