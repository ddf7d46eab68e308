"""Page tokens: where the next page begins, bound to the request that the first page answered.

They are no secrets, and nobody gains by making one up: what a page may hold is looked at anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress

from google.protobuf.message import Message

from autoprune.errors import Violation
from cluster.service.refusal import invalid

_RULE = "not a token of an earlier page of the same request"


def page_size(given: int, usual: int, most: int) -> int:
    """Return how many entries a page has."""
    if given < 0:
        raise invalid([Violation("page_size", given, "0 or more")])
    return min(given or usual, most)


def page_token(request: Message, owner: str, *place: int) -> str:
    """Return the token of the page that begins at `place`, of whatever has the id `owner`."""
    body = json.dumps([_digest(request, owner, place), *place]).encode()
    return base64.urlsafe_b64encode(body).decode()


def page_place(request: Message, owner: str, count: int) -> Sequence[int] | None:
    """Return the `count` numbers of a request's token; None on the first page."""
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return None
    place: list[int] = []
    with suppress(ValueError, TypeError, RecursionError):
        _, *place = json.loads(base64.urlsafe_b64decode(token.encode()))
    is_place = len(place) == count and all(type(x) is int and 0 <= x < 2**62 for x in place)
    if not is_place or token != page_token(request, owner, *place):
        raise invalid([Violation("page_token", token[:100], _RULE)])
    return place


def _digest(request: Message, owner: str, place: Sequence[int]) -> str:
    """Return a hash of a page, and of a request without what differs from page to page."""
    same = type(request)()
    same.CopyFrom(request)
    for name in ("page_token", "page_size"):
        same.ClearField(name)
    body = same.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{owner} {place} ".encode() + body).hexdigest()[:16]
