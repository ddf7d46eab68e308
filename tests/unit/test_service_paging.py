"""Page tokens are good for the request that they were made for, and for nothing else."""

from __future__ import annotations

import base64
import json

import pytest

from cluster.proto.autoprune.v1 import front_service_pb2 as pb
from cluster.service.paging import page_place, page_size, page_token
from cluster.service.refusal import Refusal


def request(token: str = "", size: int = 0, sort: str = "error") -> pb.QueryFrontRequest:
    return pb.QueryFrontRequest(job="digits", sort=sort, page_token=token, page_size=size)


def test_a_token_holds_where_the_next_page_begins() -> None:
    assert page_place(request(), "owner", 2) is None
    token = page_token(request(), "owner", 17, 100)
    assert page_place(request(token), "owner", 2) == [17, 100]
    assert page_place(request(token, size=5), "owner", 2) == [17, 100]
    again = page_token(request(token, size=5), "owner", 17, 200)
    assert page_place(request(again), "owner", 2) == [17, 200]


def test_a_token_belongs_to_its_request_and_owner() -> None:
    token = page_token(request(), "owner", 17, 100)
    for asked, owner, count in (
        (request(token, sort="macs"), "owner", 2),
        (request(token), "another", 2),
        (request(token), "owner", 1),
        (request(token), "owner", 3),
    ):
        with pytest.raises(Refusal, match="page_token"):
            page_place(asked, owner, count)


def made(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize("place", [(-1, 0), (1.0, 0), (True, 0), ("1", 0), (2**62, 0), (None, 0)])
def test_a_place_is_a_number_that_there_may_be(place: tuple[object, ...]) -> None:
    """Also where somebody has put together a token with the right hash."""
    token = page_token(request(), "owner", *place)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="page_token"):
        page_place(request(token), "owner", 2)


@pytest.mark.parametrize(
    "token",
    ["x", "é", "====", "!!!!", made(), made("", 1, 2), made([[[]]]), "W" * 4000, made(*"[" * 99)],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Refusal, match="page_token"):
        page_place(request(token), "owner", 2)


def test_pages_have_bounds() -> None:
    assert [page_size(given, 100, 1000) for given in (0, 1, 1000, 2**31 - 1)] == [
        100,
        1,
        1000,
        1000,
    ]
    with pytest.raises(Refusal, match="page_size"):
        page_size(-1, 100, 1000)
