"""TLS: who has the right certificates gets through, and nobody else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cluster.service.identity import Scope, new_token
from tests.certificates import Authority
from tests.service.calls import OK, UNKNOWN_CALLER, bearer, by_name
from tests.service.conftest import Served

SHORT_S = 5.0
LISTING = by_name["ListJobs"]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return _authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return _authority(tmp_path / "theirs")


def _authority(directory: Path) -> Authority:
    directory.mkdir()
    return Authority(directory)


def tls(authority: Authority) -> list[str]:
    """Return a server's options."""
    cert, key = authority.issue("localhost")
    return ["--max-jobs", "0", "--tls-cert", str(cert), "--tls-key", str(key)]


def code(served: Served, ca: Authority | None, pair: tuple[Path, Path] | None = None) -> object:
    """Return how a call ends; without a `ca` it is made in plain text."""
    options = [("grpc.ssl_target_name_override", "localhost")]
    if ca is None:
        channel = grpc.insecure_channel(served.target)
    else:
        cert, key = (each.read_bytes() for each in pair) if pair else (None, None)
        trusted = grpc.ssl_channel_credentials(ca.path.read_bytes(), key, cert)
        channel = grpc.secure_channel(served.target, trusted, options)
    with channel:
        try:
            LISTING.on(channel)(b"", timeout=SHORT_S)
        except grpc.RpcError as error:
            return error.code()
    return OK


def test_a_client_that_trusts_the_server_gets_through(
    serve: Callable[..., Served], ours: Authority, theirs: Authority
) -> None:
    served = serve(*tls(ours))
    assert code(served, ours) is OK
    for stranger in (None, theirs):
        assert code(served, stranger) is grpc.StatusCode.UNAVAILABLE
    assert code(served, ours) is OK


def test_a_server_that_knows_its_clients_serves_no_others(
    serve: Callable[..., Served], ours: Authority, theirs: Authority
) -> None:
    served = serve(*tls(ours), "--tls-client-ca", str(ours.path))
    assert code(served, ours, ours.issue("client")) is OK
    for stranger in (None, theirs.issue("client")):
        assert code(served, ours, stranger) is grpc.StatusCode.UNAVAILABLE


def test_behind_tls_a_token_is_needed_all_the_same(
    serve: Callable[..., Served], ours: Authority, tmp_path: Path
) -> None:
    """All that a server on any address must have: TLS, and tokens."""
    file = tmp_path / "tokens.json"
    token = new_token(file, "ci", "north", Scope.READ, None)
    served = serve(*tls(ours), "--host", "0.0.0.0", "--token-file", str(file))
    assert code(served, ours) is UNKNOWN_CALLER
    options = [("grpc.ssl_target_name_override", "localhost")]
    trusted = grpc.ssl_channel_credentials(ours.path.read_bytes())
    with grpc.secure_channel(served.target, trusted, options) as channel:
        LISTING.on(channel)(b"", metadata=bearer(token), timeout=SHORT_S)


def test_who_insists_may_serve_in_plain_text(serve: Callable[..., Served]) -> None:
    assert code(serve("--max-jobs", "0", "--host", "0.0.0.0", "--insecure"), None) is OK
