"""What a server is told when it starts, checked before anything is opened."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from autoprune.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a server keeps what it knows, where it listens, and whom it lets in.

    `directory` holds everything of the server's; with `store`, a PostgreSQL URL without a
    password, registry and logs are in that database. `ray` is the address of a Ray cluster,
    None for one of this machine. `metrics_port` None: no figures are served. Where `most_jobs`
    is 0 nothing is searched, and Ray is not started: the server answers what it knows.
    """

    directory: Path
    store: str | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    ray: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    catalog: Path | None = None
    insecure: bool = False
    metrics_port: int | None = None
    most_jobs: int = 4
    most_watchers: int = 1000

    def __post_init__(self) -> None:
        """Raise `InputError` for what cannot be served safely."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("TLS needs both --tls-cert and --tls-key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InputError("--tls-client-ca checks clients over TLS: give --tls-cert as well")
        for name in ("port", "metrics_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**16:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} lies between 0 and 65535, given: {value}")
        if self.most_jobs < 0 or self.most_watchers < 1:
            raise InputError("--max-jobs must be 0 or more, and --max-watchers 1 or more")
        self._check_exposure()
        self._check_store()

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def target(self) -> str:
        """The address to listen at, as gRPC takes it."""
        bare = self.host.strip("[]")
        return f"[{bare}]:{self.port}" if ":" in bare else f"{bare}:{self.port}"

    def _check_exposure(self) -> None:
        if self.is_loopback or self.insecure:
            return
        if self.tls_cert is None:
            raise InputError(
                f"{self.host} can be reached from other machines, and without TLS everybody on "
                "the way reads the tokens: give --tls-cert and --tls-key, listen on 127.0.0.1, "
                "or say --insecure"
            )
        if self.token_file is None and self.tls_client_ca is None:
            raise InputError(
                f"{self.host} can be reached from other machines, and nobody is asked who he is: "
                "give --token-file or --tls-client-ca, or say --insecure"
            )

    def _check_store(self) -> None:
        if self.store is None:
            return
        try:
            url = make_url(self.store)
        except (ArgumentError, ValueError):
            raise InputError("--store takes postgresql://USER@HOST:PORT/DATABASE") from None
        if not url.drivername.startswith("postgresql"):
            raise InputError("--store takes postgresql://USER@HOST:PORT/DATABASE")
        if url.password is not None or "password" in url.query:
            raise InputError(
                "--store has a password, which every user of this machine sees among the "
                "processes; leave it out and set PGPASSWORD, or write a .pgpass file"
            )
