"""The job file that a client sends as text: what can be told of it before anybody looks inside.

Its numbers fit into 64 bits and are finite, and its strings hold nothing that a database or a
message cannot, so that whoever handles a job later need not expect anything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from autoprune.errors import Violation
from cluster.service.refusal import invalid

MOST_BYTES = 2**20
MOST_VALUES = 5000
DEEPEST = 32


def parsed(text: str) -> dict[str, Any]:
    """Return the object that `text` holds as JSON; a `Refusal` says what is wrong with it."""
    if len(text.encode()) > MOST_BYTES:
        raise _refusal(f"{len(text)} characters", f"at most {MOST_BYTES} bytes")
    try:
        raw = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_whole)
    except RecursionError:
        raise _refusal(text, f"at most {DEEPEST} levels deep") from None
    except ValueError as error:
        raise _refusal(text, f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise _refusal(text, "an object of job keys is needed")
    for count, value in enumerate(_values(raw, text), 1):
        if count > MOST_VALUES:
            raise _refusal(text, f"at most {MOST_VALUES} values")
        if isinstance(value, str) and not _is_text(value):
            raise _refusal(value, "a string holds U+0000 or half a surrogate pair")
    return raw


def _refusal(given: str, rule: str) -> Exception:
    return invalid([Violation("spec_json", given[:100], rule)])


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:100]} is no finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:30]} does not fit into 64 bits")
    return int(text)


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def _values(raw: dict[str, Any], text: str) -> Iterator[Any]:
    """Yield all keys and values, level by level; a `Refusal` where there are too many levels."""
    level: list[Any] = [raw]
    for _ in range(DEEPEST + 1):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return
        level = []
        for each in nested:
            level += [*each.keys(), *each.values()] if isinstance(each, dict) else each
        yield from level
    raise _refusal(text, f"at most {DEEPEST} levels deep")
