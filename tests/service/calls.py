"""Every method of the service by its descriptor, called with any bytes and any headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from cluster.service.guard import SCOPES, SERVICES
from cluster.service.identity import Scope

PATIENCE_S = 60.0
OK, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNKNOWN_CALLER = grpc.StatusCode.UNAUTHENTICATED
NOT_ALLOWED = grpc.StatusCode.PERMISSION_DENIED
Headers = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Method:
    """A method: where it is, what it takes, and whether it answers with a stream."""

    service: str
    name: str
    kind: type[Message]
    is_stream: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def scope(self) -> Scope:
        return SCOPES[self.name]

    @property
    def names_a_job(self) -> bool:
        return "job" in self.kind.DESCRIPTOR.fields_by_name

    def on(self, channel: Any) -> Any:
        """Return what calls the method with bytes, and gets bytes."""
        make = channel.unary_stream if self.is_stream else channel.unary_unary
        return make(self.path, request_serializer=bytes, response_deserializer=bytes)


@dataclass(frozen=True)
class Outcome:
    """How a call ended; `fields` are those that the status finds wrong."""

    code: grpc.StatusCode
    message: str = ""
    fields: tuple[str, ...] = ()
    answer: bytes = b""


METHODS = [
    Method(service.full_name, each.name, GetMessageClass(each.input_type), each.server_streaming)
    for service in SERVICES
    for each in service.methods
]
OF_JOBS = [each for each in METHODS if each.names_a_job]
by_name = {each.name: each for each in METHODS}


def bearer(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


def outcome(
    channel: grpc.Channel, method: Method, request: Message | bytes = b"", headers: Headers = ()
) -> Outcome:
    """Make a call; of a stream only the first message is waited for."""
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    call = method.on(channel)
    try:
        if not method.is_stream:
            return Outcome(OK, answer=call(sent, timeout=PATIENCE_S, metadata=headers))
        stream = call(sent, timeout=PATIENCE_S, metadata=headers)
        answer = next(iter(stream), b"")
        stream.cancel()
        return Outcome(OK, answer=answer)
    except grpc.RpcError as error:
        return outcome_of(error)


def outcome_of(error: Any) -> Outcome:
    return Outcome(error.code(), error.details() or "", tuple(violations_of(error)))


def violations_of(error: Any) -> dict[str, str]:
    """Return the fields that a status finds wrong, with what it says of them."""
    status = rpc_status.from_call(error)
    found: dict[str, str] = {}
    for detail in status.details if status is not None else ():
        bad = BadRequest()
        if detail.Unpack(bad):
            found |= {each.field: each.description for each in bad.field_violations}
    return found


def figure(text: str, name: str) -> float:
    """Return one figure of what Prometheus is told."""
    lines = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    assert len(lines) == 1, text
    return float(lines[0].rpartition(" ")[2])
