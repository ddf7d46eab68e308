"""Why a call is refused: a status code, a sentence for people, details for programs.

raise invalid([Violation("bounds.0.most", "nan", "a finite number")])
raise missing("job", "digits")
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from autoprune.errors import (
    AutopruneError,
    InputError,
    JobError,
    RunError,
    StoreUnavailableError,
    Violation,
)
from cluster.service.structured import without_secrets

_RETRY_AFTER_S = 1
# Clients take 8 KiB of a status, its message and its details together, and refuse longer ones.
_LONGEST_MESSAGE = 1500
_MOST_BYTES = 3000
_LONGEST_TEXT = 20_000  # that is searched for secrets


class Refusal(Exception):
    """Ends a call with a status; `details` are messages of `google.rpc`."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.message = _shortened(message, _LONGEST_MESSAGE)
        self.details = details

    def status(self) -> bytes:
        """Return the status with its details, as `grpc-status-details-bin` carries it."""
        packed = []
        for each in self.details:
            packed.append(Any())
            packed[-1].Pack(each)
        number: int = self.code.value[0]
        body: bytes = Status(code=number, message=self.message, details=packed).SerializeToString()
        return body


def invalid(violations: Sequence[Violation]) -> Refusal:
    """Return a refusal of a request that breaks rules: all of them, field by field.

    Where there are more than a client would take with a status, the last ones are left out.
    """
    fields: list[BadRequest.FieldViolation] = []
    size = 0
    for each in violations:
        description = f"{each.rule} (given: {_shortened(repr(each.given), 200)})"
        field = BadRequest.FieldViolation(
            field=_shortened(each.path, 200), description=_shortened(description, _LONGEST_MESSAGE)
        )
        size += field.ByteSize()
        if fields and size > _MOST_BYTES:
            break
        fields.append(field)
    message = "; ".join(f"{x.field}: {x.description}" for x in fields[:5])
    rest = len(violations) - len(fields[:5])
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{message} (and {rest} more)" if rest else message,
        BadRequest(field_violations=fields),
    )


def missing(kind: str, name: object) -> Refusal:
    """Return a refusal for something that is not there, or that the caller may not see."""
    text = str(name)[:100]
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        f"there is no {kind} {text!r}",
        ResourceInfo(resource_type=kind, resource_name=text),
    )


def taken(message: str) -> Refusal:
    """Return a refusal for a name that is in use."""
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, message)


def precondition(message: str) -> Refusal:
    """Return a refusal of what cannot be done to something in its state."""
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, message)


def later(code: grpc.StatusCode, message: str) -> Refusal:
    """Return a refusal of a call that may succeed when it is made again."""
    retry = RetryInfo()
    retry.retry_delay.seconds = _RETRY_AFTER_S
    return Refusal(code, message, retry)


def refusal_of(error: Exception) -> Refusal | None:
    """Return what an error of ours means to a client; None for a fault of the server."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, JobError):
        return invalid(error.violations)
    if isinstance(error, StoreUnavailableError):
        return later(grpc.StatusCode.UNAVAILABLE, "the store cannot be reached; try again later")
    if isinstance(error, RunError):
        return precondition(str(error))
    if isinstance(error, InputError):
        return Refusal(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if isinstance(error, AutopruneError):
        return Refusal(grpc.StatusCode.INTERNAL, "the server has logged what is wrong")
    return None


def _shortened(text: str, most: int) -> str:
    """Return a text that takes at most `most` bytes of a header; too long a one has no middle.

    It holds no secrets, even if the client sent them: answers are logged, and shown to others.
    """
    text = without_secrets(text[:_LONGEST_TEXT])
    if len(_begin(text, most)) == len(text):
        return text
    half = most // 2 - 3
    return f"{_begin(text, half)} ... {_begin(text[::-1], half)[::-1]}"


def _begin(text: str, most: int) -> str:
    """Return as much of the beginning of a text as `most` bytes of a header hold."""
    sizes = accumulate(1 if " " <= x <= "~" else 3 * len(x.encode()) for x in text[:most])
    return text[: sum(size <= most for size in sizes)]
