"""What commands share: how a job file, overrides and the format of results are named."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
FormatOption = Annotated[Format, typer.Option("--format", help="For people, or for programs.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a job key; may be repeated."),
]


def print_json(body: Any) -> None:
    """Print a result for programs; raises `ValueError` for numbers that JSON has not."""
    typer.echo(json.dumps(body, indent=2, allow_nan=False))
