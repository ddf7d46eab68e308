"""Commands for whoever runs a server: serve, token."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoprune.errors import InputError

app = typer.Typer()

_TLS = "TLS and tokens"


class ScopeName(StrEnum):
    """What a token's owner may do; each includes those before it."""

    read = "read"
    submit = "submit"
    admin = "admin"


def _file(text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar="FILE", help=text, rich_help_panel=_TLS)
    return option


Directory = Annotated[Path, typer.Option("--dir", help="Where jobs and all about them are kept.")]
StoreUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Logs in PostgreSQL [SQLite files].")
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster [one of its own].")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS or tokens.", rich_help_panel=_TLS)
]
Catalog = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Models and data that jobs may name.")
]


@app.command()
def serve(
    directory: Directory = Path("service"),
    store: StoreUrl = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 50051,
    ray: RayAddress = None,
    tls_cert: Annotated[Path | None, _file("The server's certificate.")] = None,
    tls_key: Annotated[Path | None, _file("Its key.")] = None,
    tls_client_ca: Annotated[Path | None, _file("Clients need a certificate of it.")] = None,
    token_file: Annotated[Path | None, _file("Tokens that `autoprune token` made.")] = None,
    insecure: Insecure = False,
    catalog: Catalog = None,
    metrics_port: Annotated[int | None, typer.Option(help="Figures for Prometheus.")] = None,
    max_jobs: Annotated[int, typer.Option(help="Searched at the same time; 0: none.")] = 4,
    max_watchers: Annotated[int, typer.Option(help="Streams at the same time.")] = 1000,
) -> None:
    """Serve jobs and their fronts over gRPC, until Ctrl-C."""
    import asyncio

    from cluster.service import server, structured
    from cluster.service.settings import Settings

    settings = Settings(
        directory=directory.resolve(),
        store=store,
        host=host,
        port=port,
        ray=ray,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        token_file=token_file,
        insecure=insecure,
        catalog=catalog,
        metrics_port=metrics_port,
        most_jobs=max_jobs,
        most_watchers=max_watchers,
    )
    structured.log_to_stderr()
    asyncio.run(server.serve(settings, lambda found: typer.echo(f"serving {host}:{found}")))


@app.command()
def token(
    name: Annotated[str, typer.Argument(metavar="ID", help="What the token is called.")],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="The server's token file.")],
    tenant: Annotated[str, typer.Option(help="Whose jobs it is for.")] = "default",
    scope: Annotated[ScopeName, typer.Option(help="What it allows.")] = ScopeName.read,
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="As 2027-06-30 [never].")
    ] = None,
) -> None:
    """Make a token for a server's clients, and print it: the file keeps only its hash."""
    from cluster.service.identity import Scope, new_token

    until = None
    if expires is not None:
        try:
            until = datetime.fromisoformat(expires)
        except ValueError:
            raise InputError(f"--expires takes a date as 2027-06-30, given: {expires!r}") from None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
    typer.echo(new_token(token_file, name, tenant, Scope[scope.name.upper()], until))
