"""Who calls: bearer tokens with a tenant and a scope, kept as hashes in a file.

    {"tokens": [{"id": "ci", "tenant": "vision", "scope": "submit",
                 "sha256": "9f86…", "expires": "2027-06-30T00:00:00+00:00"}]}

A token is `autoprune_ID_SECRET`. Its secret has 256 random bits, so that a plain hash keeps it.
The file is read again when it has changed: who is taken out is refused from then on.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from autoprune.artifacts import write_whole
from autoprune.errors import InputError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DEFAULT_TENANT = "default"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(rf"autoprune_({_ID.pattern})_([A-Za-z0-9_-]{{43}})")
_NOBODYS = hashlib.sha256(b"").hexdigest()
_NO_FILE = (0, 0, 0)
_log = logging.getLogger(__name__)


class Scope(IntEnum):
    """What a caller may do; each scope includes those before it."""

    READ = 1
    SUBMIT = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the id of a token, its tenant, and what it may do."""

    id: str
    tenant: str
    scope: Scope


EVERYBODY = Caller("anonymous", DEFAULT_TENANT, Scope.ADMIN)


class TokenError(Exception):
    """A token that is missing, unknown, wrong or expired; the message never holds it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    caller: Caller
    sha256: str
    expires: datetime | None


class Tokens:
    """The tokens of a file; raises `InputError` where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, _Entry] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._refresh()

    def caller(self, authorizations: Sequence[str]) -> Caller:
        """Return whose token the one `authorization` header holds; raises `TokenError`."""
        self._refresh()
        if len(authorizations) != 1:
            raise TokenError("a token is needed: send one header authorization: Bearer TOKEN")
        scheme, _, token = authorizations[0].partition(" ")
        match = _TOKEN.fullmatch(token) if scheme.lower() == "bearer" else None
        entry = self._entries.get(match[1]) if match else None
        # An unknown token takes as long as a wrong one.
        known = entry.sha256 if entry else _NOBODYS
        is_right = hmac.compare_digest(_hash(match[2] if match else ""), known)
        if entry is None or not is_right or match is None:
            raise TokenError("the token is unknown or wrong")
        if entry.expires is not None and entry.expires <= datetime.now(UTC):
            raise TokenError(f"the token {entry.caller.id!r} has expired")
        return entry.caller

    def _refresh(self) -> None:
        """Read the file if it has changed; one that is damaged later changes nothing."""
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = _NO_FILE
        if stamp == self._stamp:
            return
        is_first, self._stamp = self._stamp is None, stamp
        try:
            self._entries = _read(self._path)
        except InputError as error:
            if is_first:
                raise
            _log.error("%s; the tokens that were known are still taken", error)


def new_token(path: Path, name: str, tenant: str, scope: Scope, expires: datetime | None) -> str:
    """Add a token to a file, which only its owner may read, and return the token.

    Raises `InputError` for a name that is in use, or that is none, and for a damaged file.
    """
    for what, given, pattern in (("the token's id", name, _ID), ("the tenant", tenant, NAME)):
        if not pattern.fullmatch(given):
            raise InputError(f"{what} must match {pattern.pattern}, given: {given!r}")
    secret = secrets.token_urlsafe(32)
    entry = {
        "id": name,
        "tenant": tenant,
        "scope": scope.name.lower(),
        "sha256": _hash(secret),
        "expires": expires.isoformat() if expires else None,
    }
    try:
        with _alone(path):
            _add(path, entry)
    except OSError as error:
        raise InputError(f"the token file {path} cannot be written: {error.strerror}") from error
    return f"autoprune_{name}_{secret}"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from adding to the same directory's token files meanwhile."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _add(path: Path, entry: dict[str, Any]) -> None:
    name = entry["id"]
    if path.exists() and name in _read(path):
        raise InputError(f"{path} has a token {name!r} already; take it out first")
    entries = json.loads(path.read_text()) if path.exists() else {"tokens": []}
    entries["tokens"].append(entry)
    write_whole(path, json.dumps(entries, indent=2).encode(), mode=0o600)


def _read(path: Path) -> dict[str, _Entry]:
    try:
        found = [_entry(each) for each in json.loads(path.read_text(encoding="utf-8"))["tokens"]]
    except OSError as error:
        raise InputError(f"the token file {path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f'the token file {path} must be {{"tokens": [{{"id", "tenant", "scope", "sha256", '
            f'"expires"}}]}}: {error!r}'
        ) from error
    entries = {each.caller.id: each for each in found}
    if len(entries) < len(found):
        raise InputError(f"the token file {path} has an id twice")
    return entries


def _entry(body: dict[str, Any]) -> _Entry:
    for key, pattern in (("id", _ID), ("tenant", NAME), ("sha256", _SHA256)):
        if not pattern.fullmatch(body[key]):
            raise ValueError(f"{key} must match {pattern.pattern}")
    caller = Caller(body["id"], body["tenant"], Scope[body["scope"].upper()])
    expires = datetime.fromisoformat(body["expires"]) if body.get("expires") else None
    if expires is not None and expires.tzinfo is None:
        raise ValueError("expires must name its time zone, as in 2027-06-30T00:00:00+00:00")
    return _Entry(caller, body["sha256"], expires)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
