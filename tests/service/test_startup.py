"""Servers that do not start: exit code 2, and one message that says what to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.conftest import ROOT
from tests.postgres import free_port
from tests.service.conftest import Served

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


UNSAFE = [
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
]
ATTEMPTS = """
import json, sys
from tests.commands import command
for options in json.load(sys.stdin):
    ended = command("serve", "--dir", "served", "--port", "0", "--max-jobs", "0", *options)
    print(json.dumps([ended.returncode, ended.stdout, ended.stderr]), flush=True)
"""


def refusals(place: Path, *attempts: tuple[str, ...]) -> list[str]:
    """Return what servers say that do not start, one after the other in one process."""
    tried = subprocess.run(
        [sys.executable, "-c", ATTEMPTS],
        input=json.dumps(attempts),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    found = []
    for code, output, errors in map(json.loads, tried.stdout.splitlines()):
        assert (code, output) == (2, ""), errors
        assert "Traceback" not in errors
        assert PASSWORD not in errors
        found.append(errors[errors.rindex("error: ") :])
    return found


@pytest.fixture(scope="module")
def said_of_unsafe(place: Path) -> dict[tuple[str, ...], str]:
    """What is said of each of `UNSAFE`."""
    attempts = [options for options, _ in UNSAFE]
    return dict(zip(attempts, refusals(place, *attempts), strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    UNSAFE,
    ids=lambda x: " ".join(x).replace(PASSWORD, "…") if isinstance(x, tuple) else "",
)
def test_what_cannot_be_served_safely_is_not_served(
    said_of_unsafe: dict[tuple[str, ...], str], options: tuple[str, ...], said: str
) -> None:
    assert said in said_of_unsafe[options]


def test_what_is_in_use_is_left_alone(place: Path, serve: Callable[..., Served]) -> None:
    port = str(free_port())
    served = serve("--max-jobs", "0", "--metrics-port", port)
    there, here, figures = refusals(
        place,
        ("--dir", str(served.directory)),
        ("--port", str(served.port)),
        ("--metrics-port", port),
    )
    assert "another server" in there
    assert "cannot listen" in here
    assert "cannot serve figures" in figures
    assert served.process.poll() is None
