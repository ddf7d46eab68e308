"""The file of a comparison: all that was measured so far, whole at any moment.

    ledger = Ledger.open(path, settings)      # an empty one, or what an earlier command has left
    ledger.add(entry)                         # written before this returns
    ledger.entries[Method("l1"), 0.5, 0]

Methods, shares and seeds may be added later; everything else that values follow from stands
in the settings, and a file with other settings is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune.artifacts import write_whole
from autoprune.comparison.entry import Entry, Key, Measured, Scoring, measured_json, measured_of
from autoprune.errors import RunError

_FORMAT = "autoprune comparison 2"
# Of differences: how many are named, and how much of each; hashes need less.
_NAMED, _SHOWN, _DIGEST = 4, 80, 64
_ABSENT = object()


class Ledger:
    """Entries and scorings of comparisons with the same settings, kept in a file."""

    def __init__(self, path: Path, settings: Mapping[str, Any], command: str = "") -> None:
        self.path = path
        self.settings = settings
        self.command = command
        self.entries: dict[Key, Entry] = {}
        self.scorings: dict[str, Scoring] = {}
        self.dense: Measured | None = None
        self._written: str | None = None

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], command: str = "") -> Ledger:
        """Return the ledger of a file, an empty one where there is none; nothing is written.

        Raises `RunError` for a file that is no comparison, or one of other settings.
        """
        ledger = cls(path, settings, command)
        check_place(path)
        if path.exists():
            ledger._read()
        return ledger

    def add(self, entry: Entry) -> None:
        """Take in an entry, in place of an earlier one of its key, and write the file."""
        self.entries[entry.key] = entry
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises `RunError` where it cannot be written, or where somebody else has written it.
        """
        self._require_unchanged()
        body = {
            "format": _FORMAT,
            "command": self.command,
            "settings": self.settings,
            "dense": None if self.dense is None else measured_json(self.dense),
            "scorings": {name: each.to_json() for name, each in self.scorings.items()},
            "entries": [each.to_json() for each in self.entries.values()],
        }
        content = (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, content)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        self._written = hashlib.sha256(content).hexdigest()

    def _read(self) -> None:
        content = _content(self.path)
        try:
            body = json.loads(content)
            is_ours = body["format"] == _FORMAT
            settings = body["settings"]
            self.dense = None if body["dense"] is None else measured_of(body["dense"])
            self.scorings = {x: Scoring.from_json(each) for x, each in body["scorings"].items()}
            entries = [Entry.from_json(each) for each in body["entries"]]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            is_ours = False
        if not is_ours:
            raise RunError(
                f"{self.path} is no comparison that this version has written; name another file "
                "with --out"
            )
        if differences := list(_differences(settings, self.settings)):
            more = len(differences) - _NAMED
            named = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise RunError(
                f"{self.path} holds a comparison of something else: {named}; name another file "
                "with --out, or remove this one"
            )
        self.entries = {each.key: each for each in entries}
        self._written = hashlib.sha256(content).hexdigest()

    def _require_unchanged(self) -> None:
        """Raise `RunError` where the file is not what was last read or written."""
        now = hashlib.sha256(_content(self.path)).hexdigest() if self.path.exists() else None
        if now != self._written:
            raise RunError(
                f"{self.path} was changed or removed meanwhile: does another comparison write it? "
                "Name another file with --out"
            )


def check_place(path: Path) -> None:
    """Raise `RunError` unless a file can be made there, with the directories above it."""
    if path.is_dir():
        raise RunError(f"{path} is a directory; name a file with --out")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunError(f"{path} cannot be written: {above} is no directory that may be written to")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error


def _differences(there: object, here: object, path: str = "") -> Iterator[str]:
    """Yield in words what differs between two JSON values, by dotted keys."""
    before, now = _children(there), _children(here)
    if before is not None and now is not None:
        for key in dict.fromkeys((*before, *now)):
            place = f"{path}.{key}".lstrip(".")
            yield from _differences(before.get(key, _ABSENT), now.get(key, _ABSENT), place)
    elif there != here:
        yield f"{path} is {_shown(there)} there and {_shown(here)} here"


def _children(value: object) -> Mapping[Any, object] | None:
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, Mapping) else None


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == _DIGEST and " " not in text:
        return f"{text[:12]}…"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
