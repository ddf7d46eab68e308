"""Python source as text: expressions that can be broken into lines, literals, long JSON.

call = Call("nn.Linear(", ("3", "4"))
lines_of(call, indent=8, before="self.out = ")     # ["        self.out = nn.Linear(3, 4)"]
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from autoprune.errors import ExportError

WIDTH = 100
# Whatever no space outside of strings divides.
_PIECES = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^" ])+ ?')


@dataclass(frozen=True, slots=True)
class Call:
    """What opens an expression, its items, and what closes it; it may be broken at the items."""

    head: str
    items: tuple[Expression, ...] = ()
    tail: str = ")"


Expression: TypeAlias = str | Call


def flat(expression: Expression) -> str:
    """Return an expression on one line."""
    if isinstance(expression, str):
        return expression
    return f"{expression.head}{', '.join(map(flat, expression.items))}{expression.tail}"


def lines_of(expression: Expression, indent: int, before: str = "", after: str = "") -> list[str]:
    """Return an expression between two texts, on one line or broken as formatters break it."""
    pad = " " * indent
    line = f"{pad}{before}{flat(expression)}{after}"
    if len(line) <= WIDTH or isinstance(expression, str) or not expression.items:
        return [line]
    inner = [each for item in expression.items for each in lines_of(item, indent + 4, after=",")]
    if all(isinstance(item, str) for item in expression.items):
        together = f"{pad}    {', '.join(map(flat, expression.items))}"
        inner = [together] if len(together) <= WIDTH else inner
    return [f"{pad}{before}{expression.head}", *inner, f"{pad}{expression.tail}{after}"]


def is_name(text: str) -> bool:
    """Say whether a text can stand after a dot, within a class, and means itself there."""
    is_plain = text.isascii() and text.isidentifier() and not keyword.iskeyword(text)
    return is_plain and not text.startswith("__")  # which Python would rename


def literal(value: Any) -> str:
    """Return what stands for a constant; raises `ExportError` for what no source can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    raise ExportError(f"no Python source can hold {value!r}; use --to torch")


def quoted(text: str) -> str:
    """Return a string literal, in double quotes where it needs no escaping."""
    return f'"{text}"' if re.fullmatch(r"[\w. -]*", text, re.ASCII) else ascii(text)


def plain(text: object, most: int = 60) -> str:
    """Return a text as it may stand in any docstring: on one line, without quotes, not long."""
    line = " ".join(str(text).split())
    safe = "".join(each if each.isprintable() and each not in "\"'\\" else "?" for each in line)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"


def json_lines(text: str) -> list[str]:
    """Break JSON at spaces between its values into lines that can stand between `'''`.

    Apostrophes, which JSON has in strings alone, are written as their numbers.
    """
    return list(_filled(_PIECES.findall(text.replace("'", r"\u0027"))))


def _filled(pieces: Iterable[str]) -> Iterable[str]:
    line = ""
    for each in pieces:
        if line and len(line) + len(each.rstrip()) > WIDTH:
            yield line.rstrip()
            line = ""
        line += each
    yield line
