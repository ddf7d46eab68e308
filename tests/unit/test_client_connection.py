"""How a server is reached: what is encrypted, who we say we are, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from autoprune.errors import InputError
from cluster.client import Client, Connection
from cluster.client.retry import Attempts, Patience

CERTIFICATE, KEY = Path("client.pem"), Path("client.key")
VARIABLES = ("SERVER", "TOKEN", "TLS_CA", "TLS_CERT", "TLS_KEY")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"AUTOPRUNE_{name}", raising=False)


@pytest.mark.parametrize("target", ["head", "head:", ":1", "head:0", "head:65536", "http://a:1"])
def test_a_server_is_a_host_and_a_port(target: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Connection(target)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]"])
def test_on_this_machine_nothing_need_be_encrypted(host: str) -> None:
    assert Connection(f"{host}:1").is_plain
    assert not Connection(f"{host}:1", ca=Path("ca.pem")).is_plain
    assert not Connection(f"{host}:1", certificate=CERTIFICATE, key=KEY).is_plain


@pytest.mark.parametrize(
    "host", ["head", "10.0.0.1", "localhost.example.com", "127.example", "[::2]"]
)
def test_to_other_machines_everything_is_encrypted_unless_told_otherwise(host: str) -> None:
    assert not Connection(f"{host}:1").is_plain
    assert Connection(f"{host}:1", insecure=True).is_plain


def test_what_contradicts_itself_is_bad_input() -> None:
    with pytest.raises(InputError, match="go together"):
        Connection("head:1", certificate=CERTIFICATE)
    with pytest.raises(InputError, match="go together"):
        Connection("head:1", key=KEY)
    with pytest.raises(InputError, match="without TLS"):
        Connection("head:1", ca=Path("ca.pem"), insecure=True)


def test_the_environment_says_what_arguments_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="AUTOPRUNE_SERVER"):
        Connection.given()
    values = ("head:1", "secret", "ca", "cert", "key")
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(f"AUTOPRUNE_{name}", value)
    expected = Connection("head:1", Path("ca"), Path("cert"), Path("key"), "secret")
    assert Connection.given() == expected
    given = Connection.given("other:2", ca=Path("a"), certificate=CERTIFICATE, key=KEY)
    assert given == Connection("other:2", Path("a"), CERTIFICATE, KEY, "secret")
    plain = Connection.given(insecure=True)
    assert plain == Connection("head:1", token="secret", insecure=True)


def test_a_token_comes_from_a_file_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOPRUNE_TOKEN", "other")
    path = tmp_path / "token"
    path.write_text("  secret\n")
    connection = Connection.given("head:1", token_file=path)
    assert connection.metadata == (("authorization", "Bearer secret"),)
    assert Connection("head:1").metadata == ()
    with pytest.raises(InputError, match="cannot read the token file"):
        Connection.given("head:1", token_file=tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "two words", "secret\nsecret", "sécret", "secret\x00"])
def test_what_is_no_token_is_bad_input_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(InputError, match="one token") as caught:
        Connection.given("head:1", token_file=path)
    assert "cret" not in str(caught.value)
    if content:
        with pytest.raises(InputError, match="visible ASCII") as caught:
            Connection("head:1", token=content)
        assert "cret" not in str(caught.value)


def test_a_token_is_never_printed() -> None:
    connection = Connection("localhost:1", token="secret")
    with Client(connection) as client:
        assert "secret" not in repr(connection) + str(connection) + repr(client)


def test_a_certificate_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere"):
        Connection("localhost:1", ca=tmp_path / "nowhere").open(grpc)


def test_pauses_double_up_to_the_longest_and_are_cut_at_random() -> None:
    patience = Patience(first_pause_s=1.0, longest_pause_s=8.0)
    several = [Attempts(1e6, patience) for _ in range(400)]
    for longest in (1.0, 2.0, 4.0, 8.0, 8.0):
        pauses = [each.pause_s() or 0.0 for each in several]
        assert max(pauses) <= longest
        assert max(pauses) > 0.9 * longest
        assert min(pauses) < 0.1 * longest


def test_a_pause_that_would_last_too_long_is_none() -> None:
    attempts = Attempts(10.0, Patience(first_pause_s=1.0, longest_pause_s=2.0))
    assert 3.0 <= (attempts.pause_s(3.0) or 0.0) <= 4.0
    assert attempts.pause_s(10.0) is None
    assert attempts.failures == 2
    assert 9.0 < attempts.left_s <= 10.0
