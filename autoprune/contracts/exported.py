"""What an export has left: apart from the contract of exporters, which knows runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Exported:
    """A written and verified file; `max_error` is its exporter's `difference` of outputs, in
    `unit` where that is not the outputs' own. `others` are files that belong to it.
    """

    path: Path
    size_bytes: int
    max_error: float
    unit: str = ""
    others: tuple[Path, ...] = ()
