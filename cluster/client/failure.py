"""What a failed call means: gRPC's codes and details as errors of autoprune.

INVALID_ARGUMENT                       JobError for a job, InputError otherwise; all violations
NOT_FOUND, ALREADY_EXISTS              RunError
FAILED_PRECONDITION, OUT_OF_RANGE      InputError, ExportError for an export
UNAUTHENTICATED, PERMISSION_DENIED     AccessError
anything else                          ServiceError
"""

from __future__ import annotations

import ast
import re
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from autoprune.errors import (
    AccessError,
    AutopruneError,
    ExportError,
    InputError,
    JobError,
    RunError,
    ServiceError,
    Violation,
)
from cluster.client.connection import TOKEN, Connection

_DETAILS = "grpc-status-details-bin"
_GIVEN = re.compile(r"(?P<rule>.*) \(given: (?P<given>.*)\)", re.DOTALL)
# What no patience mends, though gRPC calls it UNAVAILABLE.
_TLS_TROUBLE = ("CERTIFICATE_VERIFY_FAILED", "handshake failed", "Hostname Verification")
_Code = grpc.StatusCode
# A server that stops, and limits on how long a connection lives.
_ENDS_OF_STREAMS = (_Code.CANCELLED, _Code.ABORTED, _Code.DEADLINE_EXCEEDED)


def translated(error: Any, method: str, connection: Connection) -> AutopruneError:
    """Return a failed call of `method` as the error that a user can do something with."""
    code, text = error.code(), error.details() or ""
    if code is _Code.INVALID_ARGUMENT:
        return _invalid(error, method, text)
    if code in (_Code.NOT_FOUND, _Code.ALREADY_EXISTS):
        return RunError(text)
    if code in (_Code.FAILED_PRECONDITION, _Code.OUT_OF_RANGE):
        return ExportError(text) if method == "ExportTrial" else InputError(text)
    if code is _Code.UNAUTHENTICATED:
        advice = "another token" if connection.token else f"a token: {TOKEN}, or a token file"
        return AccessError(f"{connection.target} does not know you: {text}; it takes {advice}")
    if code is _Code.PERMISSION_DENIED:
        return AccessError(f"{connection.target} refuses: {text}")
    return ServiceError(_trouble(code, text, connection))


def is_passing(error: Any) -> bool:
    """Say whether the same call may succeed in a moment: the server is away, or too busy."""
    code = error.code()
    if code is _Code.UNAVAILABLE:
        return not any(each in (error.details() or "") for each in _TLS_TROUBLE)
    return code is _Code.RESOURCE_EXHAUSTED and asked_pause_s(error) is not None


def is_broken_off(error: Any) -> bool:
    """Say whether a stream may go on where it ended: it only reads, so more than `is_passing`."""
    return is_passing(error) or error.code() in _ENDS_OF_STREAMS


def asked_pause_s(error: Any) -> float | None:
    """Return after how many seconds the server wants to be asked again, if it says so."""
    found = _detail(error, error_details_pb2.RetryInfo)
    return None if found is None else float(found.retry_delay.ToNanoseconds()) / 1e9


def _trouble(code: Any, text: str, connection: Connection) -> str:
    target = connection.target
    if code is _Code.DEADLINE_EXCEEDED:
        return f"{target} did not answer in time ({text}); it may be overloaded: try again"
    if code is _Code.UNAVAILABLE:
        spoken = "in plaintext" if connection.is_plain else "in TLS"
        return (
            f"no autoprune server answers at {target}: {text}; check that it runs, that its port "
            f"can be reached from here, and that it speaks as we do, {spoken}"
        )
    if code is _Code.UNIMPLEMENTED:
        return f"what answers at {target} is no autoprune server of this version: {text}"
    return f"the server at {target} fails: {code.name}: {text}"


def _invalid(error: Any, method: str, text: str) -> AutopruneError:
    """Return all violations at once; those of a job as a `JobError`."""
    found = _detail(error, error_details_pb2.BadRequest)
    if found is None or not found.field_violations:
        return InputError(text)
    violations = [_violation(x.field, x.description) for x in found.field_violations]
    if method == "SubmitJob":
        return JobError(violations)
    return InputError("; ".join(f"{x.field}: {x.description}" for x in found.field_violations))


def _violation(field: str, description: str) -> Violation:
    """Undo what a violation's text joins: the rule, and what was given."""
    match = _GIVEN.fullmatch(description)
    if match is None:
        return Violation(field, None, description)
    try:
        given = ast.literal_eval(match["given"])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        given = match["given"]
    return Violation(field, given, match["rule"])


def _detail(error: Any, kind: Any) -> Any:
    """Return the first detail of a kind that came with an error, None without any."""
    packed = dict(error.trailing_metadata() or ()).get(_DETAILS, b"")
    try:
        for each in status_pb2.Status.FromString(packed).details:
            message = kind()
            if each.Unpack(message):
                return message
    except DecodeError:
        pass  # the code and the text still say what happened
    return None
