"""Markdown that says what it was given, whatever names and messages hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

# What means something in GitHub's Markdown; an underscore only where no word goes on.
_MEANT = re.compile(r"[\\`*\[\]<>|#&~$!]|(?<!\w)_|_(?!\w)")
_CODE = re.compile(r"[\w .:/=,+@()\-]*[\w)]")
_FOLDED = 16


def plain(text: str) -> str:
    """Return a text as one line that is read as it stands."""
    line = "".join(each if each.isprintable() else " " for each in text)
    return _MEANT.sub(lambda match: f"&#{ord(match[0])};", line)


def code(text: str) -> str:
    """Return a name in the type of code, where it has only what names have."""
    return f"`{text}`" if _CODE.fullmatch(text) else plain(text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yield the lines of a table: as many columns to the `left`, and numbers to the right."""
    yield _row(header)
    yield _row([*["---"] * left, *["---:"] * (len(header) - left)])
    yield from map(_row, rows)
    yield ""


def folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield lines, under a title that opens them where they are many."""
    if len(lines) <= _FOLDED:
        yield from lines
        return
    yield from (f"<details><summary>{title}</summary>", "", *lines, "</details>", "")


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Return the rows of every table by the name of its first column, without its header."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("| "):
            rows = []
            continue
        cells = [each.strip() for each in line.strip("|").split("|")]
        if not rows:
            found[cells[0]] = rows = [cells]
        else:
            rows.append(cells)
    return {name: each[2:] for name, each in found.items()}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
