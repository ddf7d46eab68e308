"""How a request comes in: promptly, not too long, and as the message that it should be.

Handlers of gRPC that take one message are called when it has come. Ours are called before, for
otherwise whoever sends none is waited for, known or not; and bytes that are no message are theirs
to refuse.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from cluster.service.refusal import Refusal

# Longer ones could name so much that the server does nothing else for seconds.
MOST_BYTES = 2**16
PROMPT_S = 10.0
M = TypeVar("M", bound=Message)


class NoRequest(Refusal):
    """Refuses a call that has ended without a request, or without another one."""


async def received(
    context: grpc.aio.ServicerContext,
    kind: type[M],
    most_bytes: int = MOST_BYTES,
    patience_s: float = PROMPT_S,
) -> M:
    """Return the next message of a call; a `Refusal` where none comes, or what is none."""
    try:
        async with asyncio.timeout(patience_s):
            sent = await context.read()
    except TimeoutError:
        message = f"no request has come for {patience_s:g} s"
        raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, message) from None
    if sent is grpc.aio.EOF:
        message = "the call has ended without a request that can be read"
        raise NoRequest(grpc.StatusCode.INVALID_ARGUMENT, message)
    if len(sent) > most_bytes:
        message = f"the request has {len(sent)} bytes, and may have {most_bytes}"
        raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    try:
        return kind.FromString(sent)
    except DecodeError:
        message = f"what was sent is no {kind.DESCRIPTOR.full_name}"
        raise Refusal(grpc.StatusCode.INTERNAL, message) from None
