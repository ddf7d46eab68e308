"""A seal: the SHA-256 of a file, written into the file itself, whatever its format.

    open_seal()                    # "autoprune-sha256:000…", to be written somewhere into a file
    seal(path)                     # the zeros become the digest of the file with its zeros
    check_seal(path)               # ExportError if a byte has changed since

A format needs only a place for a text that is stored as it is, such as metadata. Files that
belong to the first one (`others`) count as its continuation.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from autoprune.errors import ExportError

_WORD = "autoprune-sha256:"
_MARK = re.compile(rb"autoprune-sha256:([0-9a-f]{64})")
_OPEN = b"0" * 64
_CHUNK = 2**20


def open_seal() -> str:
    """Return the text that a file must hold exactly once before it is sealed."""
    return _WORD + _OPEN.decode()


def seal(path: Path, others: Iterable[Path] = ()) -> None:
    """Write a file's digest into it; raises `ExportError` if it has no place for one, or two."""
    place, _ = _found(path)
    digest = _digest(path, place, others)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest)


def check_seal(path: Path, others: Iterable[Path] = ()) -> None:
    """Raise `ExportError` if a file is not the one that was sealed, or never was."""
    place, written = _found(path)
    if written != _digest(path, place, others):
        raise ExportError(
            f"{path} has changed since it was written, or is not whole: its SHA-256 is another; "
            "copy it again, or export it again"
        )


def _found(path: Path) -> tuple[int, bytes]:
    """Return where the digest in a file begins, and what it is."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            marks = [(each.start(1), each[1]) for each in _MARK.finditer(view)]
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ExportError(f"cannot read {path}: {error}") from error
    if len(marks) != 1:
        why = "has no seal" if not marks else f"has {len(marks)} seals"
        raise ExportError(f"{path} was not written by autoprune, or is not whole: it {why}")
    return marks[0]


def _digest(path: Path, place: int, others: Iterable[Path]) -> bytes:
    """Return the digest of a file with an open seal, and of the others after it."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        _feed(found, file, place)
        found.update(_OPEN)
        file.seek(len(_OPEN), 1)
        _feed(found, file, None)
    for each in others:
        try:
            with each.open("rb") as file:
                _feed(found, file, None)
        except OSError as error:
            raise ExportError(f"cannot read {each}, a part of {path}: {error.strerror}") from error
    return found.hexdigest().encode()


def _feed(found: Any, file: BinaryIO, most: int | None) -> None:
    """Add to a digest what a file has from here on, at most `most` bytes of it."""
    while chunk := file.read(_CHUNK if most is None else min(_CHUNK, most)):
        found.update(chunk)
        most = None if most is None else most - len(chunk)
