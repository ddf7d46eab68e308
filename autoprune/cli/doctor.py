"""What `autoprune doctor` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from autoprune.doctor import Finding, Health

_STYLES = {Health.OK: "green", Health.WARNING: "yellow", Health.BROKEN: "bold red"}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print one line for each finding."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in findings:
        table.add_row(each.name, f"[{_STYLES[each.health]}]{each.health}[/]", each.message)
    Console(highlight=False).print(table)
