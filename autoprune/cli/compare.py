"""The command `compare`: which criterion ranks the units of one's own network best."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from autoprune.cli.options import Format, FormatOption, JobFile, Overrides, print_json
from autoprune.errors import AutopruneError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from autoprune.comparison.contest import Comparison
    from autoprune.comparison.request import Request
    from autoprune.comparison.target import Target
    from autoprune.comparison.verdict import Difference, Row
    from autoprune.job.spec import Job

app = typer.Typer()
_Value = TypeVar("_Value")
_SPLITS = {"search": "V", "report": "T"}


class Cost(StrEnum):
    """Of what a share is kept."""

    macs = "macs"
    params = "params"
    size_bytes = "size_bytes"


@app.command()
def compare(
    job: JobFile,
    criteria: Annotated[
        str, typer.Option(metavar="NAME,…", help="Criteria; all: whatever fits the network.")
    ] = "all",
    seeds: Annotated[str, typer.Option(metavar="N,…", help="Seeds of recovery.")] = "0,1,2",
    keep: Annotated[
        str, typer.Option(metavar="SHARE,…", help="Shares of the dense cost, below 1.")
    ] = "0.5,0.3",
    of: Annotated[Cost, typer.Option(help="The cost that shares are of.")] = Cost.macs,
    rung: Annotated[
        int, typer.Option(metavar="N", help="The job's rung that repairs and recovers.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Where results are kept [runs/NAME-compare.json]."),
    ] = None,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Compare pruning criteria: same network, data, counts and recovery; random is among them."""
    from autoprune.comparison.request import Request
    from autoprune.validation import load_job

    request = Request(
        tuple(_listed("--criteria", criteria, str, "names of criteria, as in l1,taylor")),
        tuple(_listed("--seeds", seeds, int, "whole numbers, as in 0,1,2")),
        tuple(_listed("--keep", keep, float, "shares, as in 0.5,0.3")),
        of.value,
        rung,
    )
    loaded = load_job(job, set_)
    place = out or Path("runs") / f"{loaded.name}-compare.json"
    done = _compared(loaded, request, place, is_shown=format_ is Format.text)
    if format_ is Format.json:
        print_json(done.to_json())
    else:
        _print(done)
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
    option: str, text: str, kind: Callable[[str], _Value], allowed: str
) -> Iterator[_Value]:
    """Yield the values of a list with commas; raises `InputError` for what is none."""
    for word in text.split(","):
        try:
            if not word.strip():
                raise ValueError(word)
            yield kind(word.strip())
        except ValueError:
            raise InputError(f"{option} takes {allowed}; given: {text!r}") from None


def _print(done: Comparison) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    request, dense = done.request, done.ledger.dense
    assert dense is not None
    seeds = ", ".join(map(str, request.seeds))
    console.print(f"[bold]{done.job.name}[/bold]: rung {request.rung}, seeds {seeds}")
    ends = (f"{_value(dense[x]['error'].value, done)} on {y}" for x, y in _SPLITS.items())
    console.print(f"dense: error {', '.join(ends)}")
    others = tuple(x for row in done.rows for x in row.others if x not in done.counted)
    tables = [_table(done, share, tuple(dict.fromkeys(others))) for share in done.ascending]
    unbounded = console.options.update(max_width=9999)
    if any(console.measure(x, options=unbounded).maximum > console.width for x in tables):
        tables = [_table(done, share, ()) for share in done.ascending]
    for share, table in zip(done.ascending, tables, strict=True):
        console.print(f"\n[bold]{_title(done, done.target(share))}[/bold]")
        console.print(table)
    for line in _remarks(done):
        console.print(line, markup=False)  # messages of others may hold brackets
    console.print(f"kept in {done.ledger.path}", soft_wrap=True, markup=False)


def _table(done: Comparison, share: float, others: Sequence[str]) -> Table:
    """Return the rows of a share, with these metrics beside the error."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in done.rows if row.share == share]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("criterion", overflow="fold")
    # A long name may be broken where it has a seam.
    seamed = (x.replace("_", "_\n") + "\non T" for x in others)
    for column in ("error on V", "error on T", *seamed, "scored\nin", "rank"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("to\nbest", "to\nrandom"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        scoring = done.ledger.scorings.get(row.criterion)
        table.add_row(
            Text(row.criterion),
            *(_error(row, split, done) for split in _SPLITS),
            *(_value(row.others[x].mean, done, x) if row.others else "" for x in others),
            "" if scoring is None else f"{scoring.seconds:.3f} s",
            "" if row.rank is None else str(row.rank),
            "best" if row.is_best else _words(row.from_best),
            _words(row.from_random),
        )
    return table


def _title(done: Comparison, target: Target) -> str:
    """Return what all criteria have in common at a share."""
    from autoprune.numbers import readable

    of = done.request.of
    row = next((row for row in done.rows if row.share == target.share and row.others), None)
    parts = [
        f"{target.share} of {of}: every group keeps about {target.keep_ratio:.3f}",
        f"{readable(target.cost, '')} {of}, {target.cost / target.dense:.4f} of dense",
    ]
    for name in done.counted if row else ():
        if row is not None and name != of:
            parts.append(f"{readable(row.others[name].mean, done.metrics[name].unit)} {name}")
    return "; ".join(parts)


def _error(row: Row, split: str, done: Comparison) -> str:
    if not row.errors:
        return "failed" if row.failures else ""
    partial = f" ({len(row.entries) - len(row.failures)} of {len(row.entries)} seeds)"
    text = _value(row.errors[split].mean, done)
    if (deviation := row.errors[split].deviation) is not None:
        text += f" ± {100 * deviation:.2f}"
    return text + (partial if row.failures else "")


def _value(value: float, done: Comparison, metric: str = "error") -> str:
    from autoprune.numbers import readable

    return readable(value, done.metrics[metric].unit)


def _words(difference: Difference | None) -> str:
    """Return what a difference on T says."""
    if difference is None:
        return ""
    if difference.is_worse:
        return "worse"
    return "better" if difference.is_better else "≈"


def _remarks(done: Comparison) -> Iterator[str]:
    """Yield what must be read beside the tables."""
    yield (
        "rank: by the mean error on V; ±: standard deviation over seeds; to best, to random: by "
        "paired differences on T, ≈ where 95 % intervals hold zero (more seeds narrow them)"
    )
    if not done.trains and len(done.request.seeds) > 1:
        yield (
            f"rung {done.request.rung} trains nothing: seeds change only what criteria draw at "
            "random, and equal networks were evaluated once"
        )
    for name in done.criteria:
        scoring = done.ledger.scorings.get(name)
        if scoring is not None and scoring.fallen_back:
            count, groups = len(scoring.fallen_back), len(done.groups.prunable)
            yield f"{name} tells nothing of {count} of {groups} groups: ranked by L1 there"
    for row in done.rows:
        for each in row.failures:
            yield f"{row.criterion} at {row.share}, seed {each.seed} failed: {each.outcome.failure}"
    for name, reason in done.left_out.items():
        yield f"{name} is left out: {reason}"
    if done.unmeasured:
        names = ", ".join(done.unmeasured)
        yield f"{names}: not measured here; it follows from the counts, which are the same for all"
