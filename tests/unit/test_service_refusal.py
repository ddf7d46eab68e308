"""Refusals: statuses that reach the client, however much is wrong."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from autoprune.errors import (
    InputError,
    JobError,
    RunError,
    StoreError,
    StoreUnavailableError,
    Violation,
)
from cluster.service.refusal import Refusal, invalid, later, missing, refusal_of

MOST_BYTES = 8192  # of a status that gRPC's clients take


def fields(refusal: Refusal) -> list[BadRequest.FieldViolation]:
    (detail,) = Status.FromString(refusal.status()).details
    found = BadRequest()
    assert detail.Unpack(found)
    return list(found.field_violations)


def test_all_violations_are_told() -> None:
    found = invalid([Violation("a.0", "x", "rule one"), Violation("b", 3, "rule two")])
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.message == "a.0: rule one (given: 'x'); b: rule two (given: 3)"
    assert [each.field for each in fields(found)] == ["a.0", "b"]
    assert Status.FromString(found.status()).message == found.message


@pytest.mark.parametrize("text", ["x", "x" * 10**6, "é" * 5000, "\n" * 5000, "𝄞" * 9999])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_status_is_never_longer_than_clients_take(text: str, count: int) -> None:
    found = invalid([Violation(text, text, f"{text}; did you mean this?")] * count)
    sent = len(quote(found.message, safe=" ")) + 4 / 3 * len(found.status())
    assert sent < MOST_BYTES - 200  # for the other headers
    assert fields(found)[0].description
    if count == 1000:
        assert found.message.endswith(" more)")


def test_long_messages_keep_their_ends() -> None:
    found = Refusal(grpc.StatusCode.INTERNAL, f"begin {'x' * 10**6} end")
    assert found.message.startswith("begin x")
    assert "x ... x" in found.message


def test_secrets_are_not_sent_back() -> None:
    token = "autoprune_ci_" + "A1" * 21 + "x"
    found = invalid([Violation("job", token, f"no {token}")])
    assert "A1A1" not in found.message
    assert b"A1A1" not in found.status()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (missing("job", "x"), grpc.StatusCode.NOT_FOUND),
        (JobError([Violation("a", 1, "b")]), grpc.StatusCode.INVALID_ARGUMENT),
        (InputError("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (RunError("bad"), grpc.StatusCode.FAILED_PRECONDITION),
        (StoreUnavailableError("host me"), grpc.StatusCode.UNAVAILABLE),
        (StoreError("host me"), grpc.StatusCode.INTERNAL),
        (later(grpc.StatusCode.ABORTED, "x"), grpc.StatusCode.ABORTED),
    ],
)
def test_errors_of_ours_are_statuses(error: Exception, code: grpc.StatusCode) -> None:
    found = refusal_of(error)
    assert found is not None
    assert found.code is code
    assert "host me" not in found.message


def test_faults_are_not_told() -> None:
    assert refusal_of(KeyError("secret")) is None
