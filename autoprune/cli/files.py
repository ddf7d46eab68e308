"""Commands about exported files: `apply` takes a policy elsewhere, `verify` measures a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import Format, FormatOption, Overrides, print_json
from autoprune.errors import InputError, VerificationError

if TYPE_CHECKING:
    from autoprune.trial import Measurement
    from autoprune.verification import Row, Verification

app = typer.Typer()
_DataFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml", help="A job file, or its `data` alone [the data that the file names]."
    ),
]


@app.command()
def apply(
    policy: Annotated[
        Path, typer.Argument(metavar="POLICY", help="An exported file, or JSON as `show` prints.")
    ],
    model: Annotated[str, typer.Option(help="The model's name, or package.module:function.")],
    checkpoint: Annotated[Path, typer.Option(help="Its trained weights.")],
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    to: Annotated[str, typer.Option(help="The format.")] = "torch",
    data: _DataFile = None,
    no_recovery: Annotated[
        bool, typer.Option("--no-recovery", help="Carve only: neither repair nor train.")
    ] = False,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Take a policy to another checkpoint of the same architecture, and export the network."""
    from autoprune.application import apply as carry_out
    from autoprune.exported_file import read_policy
    from autoprune.job.load import overridden
    from autoprune.validation import validated

    given = read_policy(policy)
    own = "import" if ":" in model else "name"
    told: dict[str, Any] = {"name": out.stem, "model": {own: model, "checkpoint": str(checkpoint)}}
    told |= {} if data is None else {"data": _data_of(data)}
    told |= {"rungs": [{"repair": "none"}]} if no_recovery else {}
    raw = given.job_defaults() | told
    if "data" not in raw:
        raise InputError(f"{policy} names no data to repair and judge with: give --data FILE.yaml")
    job = validated(overridden(raw, set_), source="the job of `apply`")
    done = carry_out(given, job, to, out)
    measured = {name: each.to_json()[:3] for name, each in done.measurements.items()}
    if format_ is Format.json:
        body = {"path": str(done.exported.path), "size_bytes": done.exported.size_bytes}
        print_json({**body, "split": "report", "measurements": measured})
        return
    typer.echo(f"{given.policy.sha256[:12]} → {done.exported.path}, on the report split:")
    for name, each in done.measurements.items():
        typer.echo(f"  {name} {_text(each, done.units[name])}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported network.")],
    data: _DataFile = None,
    format_: FormatOption = Format.text,
) -> None:
    """Measure an exported file from scratch, and compare with what it claims."""
    from autoprune.verification import verify as measure

    found = measure(file, None if data is None else _data_of(data))
    if format_ is Format.json:
        print_json(_as_json(found))
    else:
        _print(found)
    if not found.agrees:
        wrong = ", ".join(row.metric for row in found.rows if row.agrees is False)
        raise VerificationError(f"{file} is not what it claims to be: {wrong}")


def _data_of(path: Path) -> dict[str, Any]:
    """Return the `data` of a job file, or a file that is that alone."""
    from autoprune.job.load import read_job_file

    raw = read_job_file(path)
    if "source" in raw:  # its name is the file's, not that of a source
        del raw["name"]
    found: dict[str, Any] = raw.get("data", raw)
    return {"name": found} if isinstance(found, str) else found


def _as_json(found: Verification) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "format": found.format,
        "job": found.provenance.get("job"),
        "trial": found.provenance.get("trial"),
        "split": found.split,
        "samples": found.samples,
        "same_samples": found.is_same_data,
        "agrees": found.agrees,
        "metrics": {row.metric: _row_json(row) for row in found.rows},
    }


def _row_json(row: Row) -> dict[str, Any]:
    measured = None if row.measured is None else row.measured.to_json()[:3]
    claimed = row.claimed.to_json()[:3]
    return {"claimed": claimed, "measured": measured, "agrees": row.agrees, "why": row.why}


def _print(found: Verification) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    job, trial = found.provenance.get("job"), found.provenance.get("trial")
    which = "the samples that it was measured on" if found.is_same_data else "other samples"
    title = f"{found.path.name} ({found.format}): trial {trial} of {job}, whole as it was written"
    table = Table(
        title=title,
        caption=f"{found.samples:,} samples of the {found.split} split, {which}",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("", "claimed", "measured", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    words = {True: "agrees", False: "DIFFERS", None: ""}
    for row in found.rows:
        measured = "" if row.measured is None else _text(row.measured, row.unit)
        said = "; ".join(x for x in (words[row.agrees], row.why) if x)
        table.add_row(row.metric, _text(row.claimed, row.unit), measured, said)
    Console(highlight=False).print(table)


def _text(measured: Measurement, unit: str) -> str:
    from autoprune.numbers import readable

    text = readable(measured.value, unit)
    if measured.low is None or measured.high is None:
        return text
    return f"{text} [{readable(measured.low, unit)}, {readable(measured.high, unit)}]"
