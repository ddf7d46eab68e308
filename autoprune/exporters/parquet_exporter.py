"""Parquet: every trial of a run as a row, in typed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters._run_facts import origin
from autoprune.exporters._trial_rows import Table, require_same, table_of
from autoprune.seal import check_seal

_KEY = "autoprune"


class Parquet(RunExporter):
    """Parquet table of all trials: the columns of `csv`, typed; provenance in its metadata.

    Texts are strings, counts int64, values double, flags booleans; all may be null.
    """

    suffix: ClassVar[str] = ".parquet"

    def write(self, source: Chosen, path: Path) -> None:
        """Write the table; raises `ExportError` without the `tables` extra."""
        arrow, parquet = _arrow()
        table = table_of(source)
        # The schema's own metadata would hold the stamp twice, once encoded.
        with parquet.ParquetWriter(
            path, _schema(arrow, table), compression="zstd", store_schema=False
        ) as writer:
            writer.write_table(_columns(arrow, table))
            writer.add_key_value_metadata({_KEY: self.stamped(origin(source))})

    def check(self, source: Chosen, path: Path) -> float:
        """Read the table back and compare every cell; raises `ExportError` at a difference."""
        arrow, parquet = _arrow()
        check_seal(path)
        table = table_of(source)
        with parquet.ParquetFile(path) as file:
            read = file.read()
        if read.schema.remove_metadata() != _schema(arrow, table):
            raise ExportError(f"{path.name} has columns of other types; nothing was kept")
        rows = list(zip(*(each.to_pylist() for each in read.columns), strict=True))
        require_same(table, read.column_names, rows)
        return 0.0


def _arrow() -> tuple[Any, Any]:
    """Return the library; raises `ExportError` without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExportError(f"{error}; install the extra: pip install 'autoprune[tables]'") from error
    return pyarrow, pyarrow.parquet


def _schema(arrow: Any, table: Table) -> Any:
    types = {
        "text": arrow.string(),
        "whole": arrow.int64(),
        "number": arrow.float64(),
        "flag": arrow.bool_(),
    }
    return arrow.schema([(each.name, types[each.kind]) for each in table.columns])


def _columns(arrow: Any, table: Table) -> Any:
    schema = _schema(arrow, table)
    columns = zip(*table.rows, strict=True)
    arrays = [arrow.array(each, type=x.type) for each, x in zip(columns, schema, strict=True)]
    return arrow.Table.from_arrays(arrays, schema=schema)
