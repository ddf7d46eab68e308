"""Tokens: what is one, whose it is, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import InputError
from cluster.service import identity
from cluster.service.identity import Caller, Scope, TokenError, Tokens, new_token


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def header(token: str) -> list[str]:
    return [f"Bearer {token}"]


def test_a_token_says_who_calls(file: Path) -> None:
    one = new_token(file, "ci", "vision", Scope.SUBMIT, None)
    two = new_token(file, "ops", "speech", Scope.ADMIN, None)
    tokens = Tokens(file)
    assert tokens.caller(header(one)) == Caller("ci", "vision", Scope.SUBMIT)
    assert tokens.caller([f"bearer {two}"]) == Caller("ops", "speech", Scope.ADMIN)
    assert one.startswith("autoprune_ci_")
    assert len(one) == len("autoprune_ci_") + 43  # 256 bits


def test_tokens_that_are_made_at_once_are_all_kept(file: Path) -> None:
    def make(number: int) -> str:
        return new_token(file, f"number-{number}", "vision", Scope.READ, None)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make, range(40)))
    tokens = Tokens(file)
    assert [tokens.caller(header(each)).id for each in made] == [f"number-{x}" for x in range(40)]


def test_a_token_ends_when_it_expires(file: Path) -> None:
    now = datetime.now(UTC)
    good = new_token(file, "good", "vision", Scope.READ, now + timedelta(minutes=1))
    past = new_token(file, "past", "vision", Scope.READ, now)
    tokens = Tokens(file)
    assert tokens.caller(header(good)).id == "good"
    with pytest.raises(TokenError, match="'past' has expired"):
        tokens.caller(header(past))


def test_all_secrets_are_compared_in_constant_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is nothing to compare with: all that is wrong takes equally long."""
    good = new_token(file, "ci", "vision", Scope.READ, None)
    tokens = Tokens(file)
    compared: list[tuple[str, str]] = []
    compare = identity.hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(identity.hmac, "compare_digest", counted)
    assert tokens.caller(header(good)).id == "ci"
    for wrong in (good[:-1] + ("A" if good[-1] != "A" else "B"), good.replace("ci", "no"), "x"):
        with pytest.raises(TokenError, match="unknown or wrong"):
            tokens.caller(header(wrong))
    assert len(compared) == 4
    assert all(len(one) == len(other) == 64 for one, other in compared)


def test_the_secret_of_nothing_is_no_secret(file: Path) -> None:
    """Whoever sends no secret is compared with the hash of none, and gets in nowhere."""
    entry = {"id": "ci", "tenant": "vision", "scope": "read"}
    file.write_text(json.dumps({"tokens": [{**entry, "sha256": hashlib.sha256().hexdigest()}]}))
    tokens = Tokens(file)
    for sent in ("", "autoprune_ci_", "x"):
        with pytest.raises(TokenError):
            tokens.caller(header(sent))
    with pytest.raises(TokenError, match="a token is needed"):
        tokens.caller([])


GOOD = {"id": "ci", "tenant": "vision", "scope": "read", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "entries",
    [
        None,
        3,
        ["x"],
        [[]],
        [{}],
        [GOOD | {"id": "CI"}],
        [GOOD | {"id": 3}],
        [GOOD | {"tenant": "../vision"}],
        [GOOD | {"scope": 3}],
        [GOOD | {"scope": "all"}],
        [GOOD | {"sha256": "é" * 64}],
        [GOOD | {"sha256": "0" * 63}],
        [GOOD | {"expires": "soon"}],
        [GOOD | {"expires": "2027-06-30T00:00:00"}],
        [GOOD | {"expires": 3}],
        [GOOD, GOOD],
    ],
    ids=str,
)
def test_a_file_with_anything_else_is_refused(file: Path, entries: Any) -> None:
    file.write_text(json.dumps({"tokens": [GOOD]}))
    tokens = Tokens(file)
    file.write_text(json.dumps({"tokens": entries}))
    with pytest.raises(InputError, match=r"tokens\.json"):
        Tokens(file)
    with pytest.raises(InputError, match=r"tokens\.json"):
        new_token(file, "new", "vision", Scope.READ, None)
    with pytest.raises(TokenError):  # and not with anything else
        tokens.caller(header("x"))


def test_damage_is_logged_once_and_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = new_token(file, "ci", "vision", Scope.READ, None)
    tokens = Tokens(file)
    file.write_text("{")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert tokens.caller(header(token)).id == "ci"
    assert len(caplog.records) == 1
    file.unlink()
    assert tokens.caller(header(token)).id == "ci"
    other = new_token(file, "other", "vision", Scope.READ, None)
    assert tokens.caller(header(other)).id == "other"
    with pytest.raises(TokenError):
        tokens.caller(header(token))


def test_ids_and_tenants_are_names(file: Path) -> None:
    for name, tenant in (("CI", "a"), ("a_b", "a"), ("", "a"), ("a", "../b"), ("a", "")):
        with pytest.raises(InputError, match="must match"):
            new_token(file, name, tenant, Scope.READ, None)
    assert not file.exists()
    with pytest.raises(InputError, match="cannot be written"):
        new_token(file.parent / "nowhere" / "tokens", "ci", "vision", Scope.READ, None)
    new_token(file, "ci", "vision", Scope.READ, None)
    with pytest.raises(InputError, match="already"):
        new_token(file, "ci", "vision", Scope.READ, None)
