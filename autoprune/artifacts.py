"""Files named by the SHA-256 of their content: whole under their name, or not there.

    name = write_artifact(directory, content, ".safetensors")
    read_artifact(directory, name)                        # equal, or RunError

A file is written under a hidden name, flushed to disk, renamed, and its directory is
flushed as well: when `write_artifact` returns, the file survives a power cut.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from autoprune.errors import RunError


def write_artifact(directory: Path, content: bytes, suffix: str) -> str:
    """Write `content` into `directory` and return the file's name; equal content, one file.

    Raises `OSError` where there is no room; then nothing is left behind.
    """
    name = hashlib.sha256(content).hexdigest() + suffix
    path = directory / name
    if path.exists():
        _flush(directory)  # who wrote it may not have come so far
    else:
        write_whole(path, content)
    return name


def read_artifact(directory: Path, name: str) -> bytes:
    """Return the content of a file; raises `RunError` if it is missing or altered."""
    path = directory / name
    if not path.is_file():
        raise RunError(f"the file {path} is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != name.partition(".")[0]:
        raise RunError(f"the file {path} was altered: its hash is not its name")
    return content


def remove_artifact(directory: Path, name: str) -> None:
    """Remove a file that no log names any more; one that is gone already is no error."""
    (directory / name).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile.

    Nobody may do more with it than `mode` says, at no moment.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.touch(mode, exist_ok=False)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
