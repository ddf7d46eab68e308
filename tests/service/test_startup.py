"""Servers that do not start: exit code 2, and one message that says what to change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.postgres import free_port
from tests.service.conftest import CLI, Served

PASSWORD = "hunter2hunter2"
TLS = ("--tls-cert", "cert.pem", "--tls-key", "cert.key")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with good and bad files of every kind."""
    directory = tmp_path_factory.mktemp("place")
    authority = Authority(directory)
    authority.issue("cert")
    authority.issue("other")
    (directory / "garbage").write_bytes(b"\xff\xfe garbage {")
    (directory / "tokens.json").write_text('{"tokens": [{"id": "ci", "tenant": "north"}]}')
    (directory / "catalog.yaml").write_text("models: 3")
    (directory / "empty.json").write_text('{"tokens": []}')
    return directory


def refused(place: Path, *options: str) -> str:
    """Return what a server says that does not start."""
    ended = subprocess.run(
        [*CLI, "serve", "--dir", "served", "--port", "0", "--max-jobs", "0", *options],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert not ended.stdout
    assert "Traceback" not in ended.stderr
    assert PASSWORD not in ended.stderr
    last = ended.stderr[ended.stderr.rindex("error: ") :]
    return last


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "--insecure"),
        (("--host", "0.0.0.0", "--token-file", "empty.json"), "without TLS everybody"),
        (("--host", "::", *TLS), "nobody is asked"),
        (("--tls-cert", "cert.pem"), "both --tls-cert and --tls-key"),
        (("--tls-cert", "no.pem", "--tls-key", "cert.key"), "cannot read no.pem"),
        (("--tls-cert", "garbage", "--tls-key", "cert.key"), "garbage and cert.key"),
        (("--tls-cert", "cert.pem", "--tls-key", "other.key"), "key values mismatch"),
        ((*TLS, "--tls-client-ca", "no.pem"), "cannot read no.pem"),
        ((*TLS, "--tls-client-ca", "garbage"), "garbage holds no certificates"),
        (("--tls-client-ca", "ca.pem"), "give --tls-cert"),
        (("--token-file", "no.json"), "no.json cannot be read"),
        (("--token-file", "garbage"), "garbage must be"),
        (("--token-file", "tokens.json"), "'sha256'"),
        (("--catalog", "no.yaml"), "no.yaml cannot be used"),
        (("--catalog", "catalog.yaml"), "models"),
        (("--catalog", "garbage"), "garbage cannot be used"),
        (("--store", f"postgresql://me:{PASSWORD}@host/base"), "PGPASSWORD"),
        (("--store", f"postgresql://me@host/base?password={PASSWORD}"), "PGPASSWORD"),
        (("--store", f"postgresql://me:{PASSWORD}@host:port/base"), "postgresql://USER"),
        (("--store", "sqlite:///base"), "postgresql://USER"),
        (("--port", "65536"), "--port"),
        (("--metrics-port", "-1"), "--metrics-port"),
        (("--max-watchers", "0"), "--max-watchers"),
        (("--dir", "garbage"), "garbage cannot be used"),
        (("--host", "192.0.2.1", "--insecure"), "cannot listen at 192.0.2.1"),
    ],
    ids=lambda x: " ".join(x).replace(PASSWORD, "…") if isinstance(x, tuple) else "",
)
def test_what_cannot_be_served_safely_is_not_served(
    place: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in refused(place, *options)


def test_what_is_in_use_is_left_alone(place: Path, serve: Callable[..., Served]) -> None:
    port = str(free_port())
    served = serve("--max-jobs", "0", "--metrics-port", port)
    assert "another server" in refused(place, "--dir", str(served.directory))
    assert "cannot listen" in refused(place, "--port", str(served.port))
    assert "cannot serve figures" in refused(place, "--metrics-port", port)
    assert served.process.poll() is None
