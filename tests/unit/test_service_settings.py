"""What a server is told when it starts: nothing that would let in everybody, unless it is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import InputError
from cluster.service.settings import Settings

HERE = Path("service")
FILE = Path("file")
TLS: dict[str, Any] = {"tls_cert": FILE, "tls_key": FILE}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machine_may_ask_without_tls(host: str) -> None:
    assert Settings(HERE, host=host).is_loopback


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "[::]", "10.0.0.1", "", "localhost.example.org", "127.0.0.1.example.org"],
)
def test_others_need_tls_and_a_proof_of_who_they_are(host: str) -> None:
    with pytest.raises(InputError, match="without TLS everybody"):
        Settings(HERE, host=host)
    with pytest.raises(InputError, match="without TLS everybody"):
        Settings(HERE, host=host, token_file=FILE)
    with pytest.raises(InputError, match="nobody is asked"):
        Settings(HERE, host=host, **TLS)
    Settings(HERE, host=host, token_file=FILE, **TLS)
    Settings(HERE, host=host, tls_client_ca=FILE, **TLS)
    Settings(HERE, host=host, insecure=True)


def test_addresses_are_written_as_grpc_takes_them() -> None:
    targets = {host: Settings(HERE, host=host, port=7).target for host in ("127.0.0.1", "::1")}
    assert targets == {"127.0.0.1": "127.0.0.1:7", "::1": "[::1]:7"}
    assert Settings(HERE, host="[::1]", port=7).target == "[::1]:7"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_cert": FILE}, "both --tls-cert and --tls-key"),
        ({"tls_key": FILE}, "both --tls-cert and --tls-key"),
        ({"tls_client_ca": FILE}, "give --tls-cert"),
        ({"port": -1}, "--port"),
        ({"port": 65536}, "--port"),
        ({"metrics_port": 65536}, "--metrics-port"),
        ({"most_jobs": -1}, "--max-jobs"),
        ({"most_watchers": 0}, "--max-watchers"),
        ({"store": "sqlite:///x"}, "--store takes"),
        ({"store": "mysql://me@host/base"}, "--store takes"),
        ({"store": "nonsense"}, "--store takes"),
        ({"store": "postgresql://me@host:port/base"}, "--store takes"),
        ({"store": "postgresql://me:secret@host/base"}, "PGPASSWORD"),
        ({"store": "postgresql://me@host/base?password=secret"}, "PGPASSWORD"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Settings(HERE, **settings)
    assert "secret" not in str(caught.value)
