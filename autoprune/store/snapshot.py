"""Snapshots: the state of searchers as bytes, without pickle.

    body = pack({"rng": {...}, "weights": np.array(...)})
    unpack(body)                          # equal; StoreError for anything else

A snapshot is an npz archive: every array under a number of its own, and one JSON text in
which `{"array": NUMBER}` stands where an array was. In front of it stand the version of the
format and a SHA-256 of the rest.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import numpy as np

from autoprune.errors import StoreError

_MAGIC = b"autoprune snapshot 1\n"
_TEXT = "text"
_ARRAY = "array"


def pack(state: Any) -> bytes:
    """Return nested dicts and lists of JSON values and numpy arrays as bytes.

    Raises `TypeError` or `ValueError` for anything else, NaN outside of arrays included.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_extracted(state, arrays), allow_nan=False)
    buffer = io.BytesIO()
    coded = np.frombuffer(text.encode(), dtype=np.uint8)
    np.savez_compressed(buffer, allow_pickle=False, **{_TEXT: coded}, **arrays)
    content = buffer.getvalue()
    return _MAGIC + hashlib.sha256(content).digest() + content


def unpack(body: bytes) -> Any:
    """Return what `pack` was given; raises `StoreError` for bytes that are not its work."""
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if not body.startswith(_MAGIC):
        raise StoreError("the snapshot has another format, or none")
    digest, content = body[len(_MAGIC) : start], body[start:]
    if hashlib.sha256(content).digest() != digest:
        raise StoreError("the snapshot is damaged: its checksum is another")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            text = arrays[_TEXT].tobytes().decode()
            return _restored(json.loads(text), arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(f"the snapshot cannot be read: {error}") from error


def _extracted(state: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(state, np.ndarray):
        name = str(len(arrays))
        arrays[name] = state
        return {_ARRAY: name}
    if isinstance(state, dict):
        if _ARRAY in state:
            raise ValueError(f"{_ARRAY!r} cannot be a key of a stored state")
        return {key: _extracted(each, arrays) for key, each in state.items()}
    if isinstance(state, list | tuple):
        return [_extracted(each, arrays) for each in state]
    return state


def _restored(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _restored(each, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [_restored(each, arrays) for each in value]
    return value
