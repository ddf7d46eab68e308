"""The command line. Exit codes: 0 success, 1 the search failed, 2 bad input, 130 Ctrl-C."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli import compare, files, serve, service
from autoprune.cli.access import Access, RunName, takes_access
from autoprune.cli.options import Format, FormatOption, JobFile, Overrides, print_json
from autoprune.errors import AutopruneError, InputError

if TYPE_CHECKING:
    from autoprune.job.spec import Job
    from autoprune.run import Run

app = typer.Typer(
    name="autoprune",
    help="Search for the smaller networks that a trained PyTorch model contains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


StoreUrl = Annotated[str | None, typer.Option(metavar="URL", help="Log in a PostgreSQL database.")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="The run's directory.")]


@app.command()
def search(
    job: JobFile,
    run: Annotated[Path | None, typer.Option(help="Directory of the run [runs/NAME].")] = None,
    address: Annotated[str | None, typer.Option(help="An existing Ray cluster.")] = None,
    store: StoreUrl = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the search to the cluster and return.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    warm_start: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Try the front of an earlier run first.")
    ] = None,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Search, and write the report."""
    from autoprune.validation import load_job

    loaded = load_job(job, set_)
    directory = run or Path("runs") / loaded.name
    try:
        done = _searched(
            loaded,
            directory,
            is_shown=format_ is Format.text,
            resume=resume,
            warm_start=warm_start,
            address=address,
            store=store,
            detach=detach,
        )
    except KeyboardInterrupt:
        again = f"autoprune search {job} --run {directory} --resume goes on"
        typer.echo(f"interrupted; finished trials are kept: {again}", err=True)
        raise typer.Exit(130) from None
    if detach:
        typer.echo(f"the search goes on without this terminal; see: autoprune front {directory}")
    else:
        _print_run(done, format_)


def _searched(job: Job, directory: Path, *, is_shown: bool, **options: Any) -> Run:
    """Search with a live line on standard error."""
    from autoprune.cli.progress import LiveProgress
    from cluster import session

    with LiveProgress(is_shown=is_shown) as progress:
        return session.search(job, directory, watcher=progress, **options)


def _print_run(run: Run, format_: Format) -> None:
    from autoprune.cli.tables import print_result

    if format_ is Format.json:
        print_json(run.front_json())
    else:
        print_result(run)


@app.command()
def inspect(
    job: JobFile,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Show what can be pruned, what cannot and why, and what a trial costs; run nothing."""
    from autoprune.cli.tables import print_inspection
    from autoprune.controller.problem import problem_of
    from autoprune.controller.roster import Roster
    from autoprune.preflight import inspection, preflight, seconds_per_trial
    from autoprune.validation import load_job

    found = preflight(load_job(job, set_))
    Roster(found.job, problem_of(found.job, found.preparation))  # can the searchers serve?
    body = inspection(found, seconds_per_trial(found))
    if format_ is Format.json:
        print_json(body)
    else:
        print_inspection(body, found)


@app.command()
@takes_access
def front(
    run: RunName,
    access: Access,
    all_: Annotated[bool, typer.Option("--all", help="Every completed trial.")] = False,
    where: Annotated[list[str], typer.Option(help="A bound, as 'macs<=2e7'.")] = [],
    sort: Annotated[str | None, typer.Option(help="Metric to sort by.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the first K.")] = None,
    pick: Annotated[
        str | None, typer.Option(help="knee, best:METRIC or weights:METRIC=W,…")
    ] = None,
    format_: FormatOption = Format.text,
) -> None:
    """Show the front of a run."""
    from autoprune.cli.tables import print_front

    with access.opened(run) as opened:
        if pick is not None:
            trials = [opened.trial(pick)]
        else:
            trials = opened.select(everything=all_, where=where, sort=sort, top=top)
        if format_ is Format.json:
            print_json(opened.front_json(trials))
        else:
            print_front(opened, trials)


@app.command()
@takes_access
def show(
    run: RunName,
    trial: Annotated[str, typer.Argument(help="A trial number, knee, best:METRIC …")],
    access: Access,
    format_: FormatOption = Format.text,
) -> None:
    """Show one trial: policy, costs, evaluations, what dominates it."""
    from autoprune.cli.tables import print_trial

    with access.opened(run) as opened:
        chosen = opened.trial(trial)
        body = opened.show_json(chosen)
        if format_ is Format.json:
            print_json(body)
        else:
            print_trial(opened, chosen, body)


@app.command()
@takes_access
def export(
    run: RunName,
    trial: Annotated[str, typer.Argument(help="A trial number, knee, best:METRIC …")],
    access: Access,
    to: Annotated[str, typer.Option(help="The format: onnx, csv, card … (autoprune plugins).")],
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the format, as license=mit."),
    ] = [],
    format_: FormatOption = Format.text,
) -> None:
    """Write a trial in a format, read it back, compare, and say where it is."""
    from autoprune.job.load import overridden

    with access.opened(run) as opened:
        chosen = opened.trial(trial)
        written = opened.export(chosen, to, out, **overridden({}, set_))
    if format_ is Format.json:
        print_json(
            {
                "path": str(written.path),
                "trial": chosen.number,
                "size_bytes": written.size_bytes,
                "max_error": written.max_error,
                "unit": written.unit,
                "others": [str(each) for each in written.others],
            }
        )
        return
    places = ", ".join(map(str, (written.path, *written.others)))
    agreed = f"outputs agree within {written.max_error:.1e} {written.unit}".rstrip()
    found = agreed if written.max_error else "read back: equal"
    typer.echo(f"trial {chosen.number} → {places} ({written.size_bytes:,} bytes; {found})")


@app.command()
def report(
    run: RunDirectory,
    out: Annotated[Path | None, typer.Option(help="The file [RUN/report.html].")] = None,
) -> None:
    """Write the report as one self-contained HTML file."""
    from autoprune.report.html import write_report
    from autoprune.run import REPORT_NAME, Run

    path = out or run / REPORT_NAME
    write_report(Run.open(run), path)
    typer.echo(str(path))


@app.command()
def plugins(format_: FormatOption = Format.text) -> None:
    """List everything that a job or an export can name."""
    from autoprune.cli.tables import print_plugins
    from autoprune.plugins import SHELVES, names

    listing = {kind: names(kind) for kind in SHELVES}
    if format_ is Format.json:
        print_json(listing)
    else:
        print_plugins(listing)


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's directory [the installation].")
    ] = None,
    format_: FormatOption = Format.text,
) -> None:
    """Check the installation, or a run: what is broken, and what to do about it."""
    from autoprune.cli.doctor import print_findings
    from autoprune.doctor import Health, examine_installation, examine_run

    findings = examine_installation() if run is None else examine_run(run)
    if format_ is Format.json:
        print_json([asdict(each) for each in findings])
    else:
        print_findings(findings)
    if any(each.health is Health.BROKEN for each in findings):
        raise typer.Exit(1)


app.add_typer(compare.app)
app.add_typer(files.app)
app.add_typer(service.app)
app.add_typer(serve.app)


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us means Ctrl-C
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except AutopruneError as error:
        typer.echo(f"failed: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
