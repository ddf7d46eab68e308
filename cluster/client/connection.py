"""How to reach a server: where it is, what TLS it speaks, and who we are.

    Connection.given("head:8470", token_file=Path("token"))    # the environment says the rest
    Connection("localhost:8470")                               # plaintext, to this machine only

TLS is spoken unless the host is this machine itself and no certificates are named. A token is
never a part of what is printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from autoprune.errors import InputError

SERVER, TOKEN = "AUTOPRUNE_SERVER", "AUTOPRUNE_TOKEN"
_TLS_CA, _TLS_CERT, _TLS_KEY = "AUTOPRUNE_TLS_CA", "AUTOPRUNE_TLS_CERT", "AUTOPRUNE_TLS_KEY"

_TARGET = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
# What may stand in an HTTP/2 header; anything else fails in gRPC, with the token in the message.
_VISIBLE = re.compile(r"[\x21-\x7e]{1,4096}")
_LARGEST_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Connection:
    """A server at `target`, HOST:PORT, and how we speak to it.

    `ca` is the file of the certificates that sign the server's, the system's where there is
    none. With `certificate` and `key` the server knows us by them, with `token` by that.
    `insecure` means plaintext also to other machines. Raises `InputError` for what cannot be.
    """

    target: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        match = _TARGET.fullmatch(self.target)
        if match is None or not 0 < int(match["port"]) < 2**16:
            raise InputError(f"a server is named HOST:PORT, given: {self.target!r}")
        if (self.certificate is None) != (self.key is None):
            raise InputError("a client's certificate and its key go together: give both or none")
        if self.insecure and (self.ca or self.certificate):
            raise InputError("insecure means without TLS: leave out the certificates, or it")
        if self.token is not None and not _VISIBLE.fullmatch(self.token):
            raise InputError("the token must be one word of visible ASCII characters")

    @classmethod
    def given(
        cls,
        server: str | None = None,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        token_file: Path | None = None,
        insecure: bool = False,
    ) -> Connection:
        """Return the connection that arguments and, where they are silent, the environment say.

        AUTOPRUNE_SERVER, AUTOPRUNE_TOKEN (the token itself), AUTOPRUNE_TLS_CA,
        AUTOPRUNE_TLS_CERT and AUTOPRUNE_TLS_KEY (files; not looked at with `insecure`).
        """
        target = server or os.environ.get(SERVER)
        if not target:
            raise InputError(f"no server is named: give --server HOST:PORT, or set {SERVER}")
        if not insecure:
            ca = ca or _named(_TLS_CA)
            if certificate is None and key is None:
                certificate, key = _named(_TLS_CERT), _named(_TLS_KEY)
        token = _token_in(token_file) if token_file else os.environ.get(TOKEN) or None
        return cls(target, ca, certificate, key, token, insecure)

    @property
    def is_local(self) -> bool:
        """Say whether the server is on this machine, by its name or address."""
        host = self.target.rpartition(":")[0].strip("[]")
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_plain(self) -> bool:
        """Say whether nothing is encrypted."""
        return self.insecure or (self.is_local and not self.ca and not self.certificate)

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open(self, kind: Any) -> Any:
        """Return a channel of `kind`, the module `grpc` or `grpc.aio`; it connects when used.

        Raises `InputError` for a file that cannot be read.
        """
        if self.is_plain:
            return kind.insecure_channel(self.target, options=self._options())
        import grpc

        credentials = grpc.ssl_channel_credentials(
            _content(self.ca), _content(self.key), _content(self.certificate)
        )
        return kind.secure_channel(self.target, credentials, options=self._options())

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.primary_user_agent", "autoprune"),
            ("grpc.max_receive_message_length", _LARGEST_ANSWER_BYTES),
            # A connection that died without a word is noticed while something waits on it.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # We pause between attempts ourselves; a channel that pauses for minutes hides that
            # the server is back.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.enable_http_proxy", int(not self.is_local)),
        ]


def _named(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text) if text else None


def _content(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _token_in(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InputError(f"cannot read the token file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not _VISIBLE.fullmatch(token):
        # Not the content: whatever it is, it may be a secret.
        raise InputError(f"{path} must hold one token, a word of visible ASCII characters")
    return token
