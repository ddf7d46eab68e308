"""Commands for the jobs of a server: jobs, submit, watch, cancel, resume, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.access import Access, ServerOption, takes_access
from autoprune.cli.options import Format, FormatOption, JobFile, Overrides, print_json
from autoprune.errors import InputError

if TYPE_CHECKING:
    from cluster.client import JobStatus

app = typer.Typer()

JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")]


@app.command()
@takes_access
def jobs(
    access: Access,
    state: Annotated[
        list[str], typer.Option(metavar="STATE", help="Only jobs in this state; may be repeated.")
    ] = [],
    server: ServerOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """List the jobs of a server, the newest first."""
    from autoprune.cli.watch import print_jobs

    with access.client(server) as client:
        found = list(client.jobs(state))
    if format_ is Format.json:
        print_json([each.to_json() for each in found])
    else:
        print_jobs(found)


@app.command()
@takes_access
def submit(
    job: JobFile,
    access: Access,
    server: ServerOption = None,
    via_ray_job: Annotated[
        str | None, typer.Option(metavar="URL", help="Ray's job API, http://HOST:8265.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Via Ray: directory of the run, an absolute path there.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Via Ray: a PostgreSQL store, without its password."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Via Ray: continue an interrupted run.")
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Have the server check it, and start nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Then watch it.")] = False,
    set_: Overrides = [],
    format_: FormatOption = Format.text,
) -> None:
    """Have a server, or a Ray cluster, search, and return at once."""
    if via_ray_job is None:
        if run or store or resume:
            raise InputError("--run, --store and --resume go with --via-ray-job only")
        _submit_to_server(access, server, job, set_, validate_only, watch, format_)
        return
    if server is not None or validate_only or watch:
        raise InputError(
            "--via-ray-job goes to a Ray cluster: leave out --server, --validate-only and --watch"
        )
    if run is None:
        raise InputError("--via-ray-job needs --run: the run's directory, an absolute path there")
    _submit_to_ray(via_ray_job, job, run, set_, store, resume, format_)


def _submit_to_server(
    access: Access,
    server: str | None,
    job: Path,
    overrides: list[str],
    validate_only: bool,
    watch: bool,
    format_: Format,
) -> None:
    from autoprune.job.load import read_job_file

    with access.client(server) as client:
        status = client.submit(read_job_file(job, overrides), validate_only=validate_only)
    if watch and not validate_only:
        _watch(access, server, status.name, 0, format_)
    elif format_ is Format.json:
        print_json(status.to_json())
    elif validate_only:
        typer.echo(f"{status.name} is valid; nothing was started")
    else:
        typer.echo(f"submitted {status.name}; follow it: autoprune watch {status.name}")


def _submit_to_ray(
    dashboard: str,
    job: Path,
    run: str,
    overrides: list[str],
    store: str | None,
    resume: bool,
    format_: Format,
) -> None:
    from cluster import ray_job

    submission = ray_job.submit(
        job, dashboard, run, overrides=overrides, store=store, resume=resume
    )
    if format_ is Format.json:
        print_json({"submission_id": submission, "dashboard": dashboard, "run": run})
    else:
        typer.echo(f"submitted {submission}; follow it:")
        typer.echo(f"  ray job logs --address {dashboard} --follow {submission}")


@app.command()
@takes_access
def watch(
    job: JobName,
    access: Access,
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after this event [JSON: 0; else recent ones].")
    ] = None,
    server: ServerOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Watch a job until it has ended; exit code 0 if it finished. JSON: an event per line."""
    _watch(access, server, job, after, format_)


def _watch(
    access: Access, server: str | None, job: str, after: int | None, format_: Format
) -> None:
    from autoprune.cli.watch import print_events, watch_live
    from cluster.client import JobState

    try:
        if format_ is Format.json:
            with access.client(server) as client:
                status = print_events(client, job, after or 0)
        else:
            status = watch_live(lambda waiting: access.client(server, waiting), job, after)
    except KeyboardInterrupt:
        typer.echo(
            f"no longer watching; {job} goes on. autoprune watch {job} watches again, "
            f"autoprune cancel {job} ends it",
            err=True,
        )
        raise typer.Exit(130) from None
    if status.state is not JobState.FINISHED:
        raise typer.Exit(1)


@app.command()
@takes_access
def cancel(
    job: JobName,
    access: Access,
    now: Annotated[
        bool, typer.Option("--now", help="Give up what runs instead of finishing it.")
    ] = False,
    server: ServerOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """End a search; what has finished is kept."""
    with access.client(server) as client:
        _print_status(client.cancel(job, now=now), format_)


@app.command()
@takes_access
def resume(
    job: JobName,
    access: Access,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Another budget of trials, in all.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Another budget of minutes, in all.")
    ] = None,
    server: ServerOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Go on with a job that was cancelled or failed, or that gets a larger budget."""
    with access.client(server) as client:
        _print_status(client.resume(job, trials=trials, minutes=minutes), format_)


@app.command()
@takes_access
def delete(
    job: JobName,
    access: Access,
    server: ServerOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Remove a job that is not running: its log, its networks, everything."""
    with access.client(server) as client:
        client.delete(job)
    if format_ is Format.json:
        print_json({"name": job, "deleted": True})
    else:
        typer.echo(f"deleted {job}")


def _print_status(status: JobStatus, format_: Format) -> None:
    if format_ is Format.json:
        print_json(status.to_json())
    else:
        why = f": {status.detail}" if status.detail else ""
        typer.echo(f"{status.name} is {status.state}{why}")
