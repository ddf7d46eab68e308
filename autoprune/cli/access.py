"""How commands reach a server: the options for it, once for all of them.

    @app.command()
    @takes_access
    def jobs(access: Access, server: ServerOption = None) -> None:
        with access.client(server) as client: ...

A token never stands on the command line, where everybody on the machine can read it.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from autoprune.errors import AutopruneError
    from autoprune.run_view import RunView
    from cluster.client import Client

_PANEL = "Server"
_DEADLINE_S = 10.0  # people wait for an answer
_REMOTE = re.compile(r"(?P<job>[^@/]+)@(?P<server>[^@/]+)")

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's directory, or JOB@HOST:PORT.")
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="The server [$AUTOPRUNE_SERVER].", rich_help_panel=_PANEL
    ),
]


def _file(text: str, variable: str) -> Any:
    described = f"{text} [${variable}]."
    return Annotated[
        Path | None, typer.Option(metavar="FILE", help=described, rich_help_panel=_PANEL)
    ]


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "tls_ca": (_file("Certificates that sign the server's", "AUTOPRUNE_TLS_CA"), None),
    "tls_cert": (_file("Our certificate", "AUTOPRUNE_TLS_CERT"), None),
    "tls_key": (_file("Our certificate's key", "AUTOPRUNE_TLS_KEY"), None),
    "token_file": (_file("A file with our token; else the token is", "AUTOPRUNE_TOKEN"), None),
    "insecure": (
        Annotated[
            bool,
            typer.Option(
                "--insecure",
                help="Without TLS, for everybody on the way to read.",
                rich_help_panel=_PANEL,
            ),
        ],
        False,
    ),
}


@dataclass(frozen=True)
class Access:
    """What the options say about TLS and the token."""

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False

    def client(
        self, server: str | None, waiting: Callable[[AutopruneError], None] | None = None
    ) -> Client:
        """Return a client of `server`, of AUTOPRUNE_SERVER without; raises `InputError`."""
        from cluster.client import Client, Connection, Patience

        connection = Connection.given(
            server,
            ca=self.tls_ca,
            certificate=self.tls_cert,
            key=self.tls_key,
            token_file=self.token_file,
            insecure=self.insecure,
        )
        return Client(connection, patience=Patience(deadline_s=_DEADLINE_S), waiting=waiting)

    @contextmanager
    def opened(self, run: str) -> Iterator[RunView]:
        """Open a run: a directory, or the job of a server as JOB@HOST:PORT."""
        match = _REMOTE.fullmatch(run)
        if match is None or Path(run).is_dir():
            from autoprune.run import Run

            yield Run.open(Path(run))
            return
        with self.client(match["server"]) as client:
            yield client.run(match["job"])


def takes_access(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Access`; it gets them as its argument `access`."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "access"]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        access = Access(**{name: given.pop(name) for name in _OPTIONS})
        command(access=access, **given)

    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own] + options
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped
