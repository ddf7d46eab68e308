"""CSV: every trial of a run as a row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import ClassVar

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.exporters._trial_rows import Cell, Kind, require_same, table_of


class Csv(RunExporter):
    """CSV table of all trials: a row each, with values, intervals, costs and decisions.

    RFC 4180 in UTF-8; cells without a value are empty, flags are `true` and `false`, numbers
    have all their digits. Texts stand as they are: `_trial_rows` says why none is a formula.
    """

    suffix: ClassVar[str] = ".csv"
    # Whatever is added to a CSV file is a row to whoever reads it.
    is_sealed: ClassVar[bool] = False

    def write(self, source: Chosen, path: Path) -> None:
        """Write the table."""
        table = table_of(source)
        with path.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([each.name for each in table.columns])
            writer.writerows([_written(cell) for cell in row] for row in table.rows)

    def check(self, source: Chosen, path: Path) -> float:
        """Read the table back and compare every cell; raises `ExportError` at a difference."""
        table = table_of(source)
        kinds = [each.kind for each in table.columns]
        # A policy of thousands of groups is longer than the reader takes as a rule.
        usual = csv.field_size_limit(sys.maxsize)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file, strict=True)
        finally:
            csv.field_size_limit(usual)
        read = [[_read(*each) for each in zip(kinds, row, strict=True)] for row in rows]
        require_same(table, header, read)
        return 0.0


def _written(cell: Cell) -> str:
    if cell is None:
        return ""
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _read(kind: Kind, text: str) -> Cell:
    if not text:
        return None
    if kind == "flag":
        return text == "true"
    if kind == "whole":
        return int(text)
    return float(text) if kind == "number" else text
