"""The command `compare`: which way to prune serves one's own network best."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from autoprune.cli.options import Format, FormatOption, JobFile, Overrides, print_json
from autoprune.errors import AutopruneError, InputError

if TYPE_CHECKING:
    from autoprune.comparison.contest import Comparison
    from autoprune.comparison.request import Request
    from autoprune.job.spec import Job

app = typer.Typer()
_Value = TypeVar("_Value")


class Of(StrEnum):
    """Of what a share is kept."""

    macs = "macs"
    params = "params"
    size_bytes = "size_bytes"
    weights = "weights"


Criteria = Annotated[
    str, typer.Option(metavar="NAME,…", help="Criteria; all: whatever fits the network.")
]
Recoveries = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…", help="Recoveries, each with each criterion; by default the rung's."
    ),
]
Seeds = Annotated[str, typer.Option(metavar="N,…", help="Seeds of recovery.")]
Keep = Annotated[str, typer.Option(metavar="SHARE,…", help="Shares of what is dense, below 1.")]
OfWhat = Annotated[Of, typer.Option(help="A cost, or the weights of every kernel.")]
Pattern = Annotated[
    str | None,
    typer.Option(metavar="N:M|RxC", help="How weights leave; by default each by itself."),
]
Rung = Annotated[int, typer.Option(metavar="N", help="The job's rung that repairs and recovers.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE.json", help="Where results are kept: runs/NAME-compare.json."),
]


@app.command()
def compare(
    job: JobFile,
    criteria: Criteria = "all",
    recoveries: Recoveries = None,
    seeds: Seeds = "0,1,2",
    keep: Keep = "0.5,0.3",
    of: OfWhat = Of.macs,
    pattern: Pattern = None,
    rung: Rung = 0,
    out: Out = None,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Compare ways to prune: same network, data, counts and training; random is among them."""
    from autoprune.cli.comparison_table import print_comparison
    from autoprune.comparison.request import Request
    from autoprune.validation import load_job

    request = Request(
        tuple(_listed("--criteria", criteria, str, "names of criteria, as in l1,taylor")),
        tuple(_listed("--seeds", seeds, int, "whole numbers, as in 0,1,2")),
        tuple(_listed("--keep", keep, float, "shares, as in 0.5,0.3")),
        of.value,
        rung,
        recoveries=tuple(_listed("--recoveries", recoveries, str, "names, as in finetune,rigl")),
        pattern=pattern,
    )
    loaded = load_job(job, set_)
    place = out or Path("runs") / f"{loaded.name}-compare.json"
    done = _compared(loaded, request, place, is_shown=format_ is Format.text)
    if format_ is Format.json:
        print_json(done.to_json())
    else:
        print_comparison(done)
    if not any(row.errors for row in done.rows):
        raise AutopruneError("no evaluation succeeded; the failures stand above and in the file")


def _compared(job: Job, request: Request, place: Path, *, is_shown: bool) -> Comparison:
    """Compare with a live line on standard error."""
    from autoprune.cli.progress import LiveStanding
    from autoprune.comparison.contest import compare as compared

    line = shlex.join(["autoprune", *sys.argv[1:]])
    try:
        with LiveStanding(is_shown=is_shown) as watcher:
            return compared(job, request, place, command=line, watcher=watcher)
    except KeyboardInterrupt:
        kept = f"what finished is kept in {place}" if place.exists() else "nothing had finished"
        typer.echo(f"interrupted; {kept}; the same command goes on", err=True)
        raise typer.Exit(130) from None


def _listed(
    option: str, text: str | None, kind: Callable[[str], _Value], allowed: str
) -> Iterator[_Value]:
    """Yield the values of a list with commas; raises `InputError` for what is none."""
    for word in () if text is None else text.split(","):
        try:
            if not word.strip():
                raise ValueError(word)
            yield kind(word.strip())
        except ValueError:
            raise InputError(f"{option} takes {allowed}; given: {text!r}") from None
