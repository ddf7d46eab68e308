"""What surrounds every call: who may make it, how long it may take, what is logged and counted.

Every method of every service stands in `SCOPES`; the server does not start with one that does
not. Errors become statuses here, and what is not ours says nothing to the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from autoprune.errors import AutopruneError
from cluster.proto.autoprune.v1 import front_service_pb2, search_service_pb2
from cluster.service.figures import Figures
from cluster.service.identity import EVERYBODY, Caller, Scope, TokenError, Tokens
from cluster.service.refusal import Refusal, refusal_of
from cluster.service.request import MOST_BYTES, received

SERVICES: tuple[ServiceDescriptor, ...] = (
    search_service_pb2.DESCRIPTOR.services_by_name["SearchService"],
    front_service_pb2.DESCRIPTOR.services_by_name["FrontService"],
)
SCOPES: Mapping[str, Scope] = {
    "SubmitJob": Scope.SUBMIT,
    "GetJob": Scope.READ,
    "ListJobs": Scope.READ,
    "CancelJob": Scope.SUBMIT,
    "ResumeJob": Scope.SUBMIT,
    "DeleteJob": Scope.ADMIN,
    "WatchJob": Scope.READ,
    "WatchFront": Scope.READ,
    "QueryFront": Scope.READ,
    "GetTrial": Scope.READ,
    "ListTrials": Scope.READ,
    "ExplainTrial": Scope.READ,
    "ExportTrial": Scope.READ,
}
# Of calls that are answered once; a client's own deadline may be earlier.
LONGEST_S = 120.0
_MOST_BYTES = {"SubmitJob": 4 * 2**20}  # of requests; jobs have a limit of their own
_log = logging.getLogger("autoprune.service")


class Guard:
    """Makes handlers of a service's methods. Without `tokens` everybody may do everything."""

    def __init__(self, tokens: Tokens | None, figures: Figures) -> None:
        self._tokens = tokens
        self._figures = figures

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Return handlers that call the methods of `servicer`, as (request, caller).

        For gRPC they take streams of bytes, of which `received` tells why.
        """
        found = {}
        for method in service.methods:
            behaviour = getattr(servicer, method.name)
            kind = GetMessageClass(method.input_type)
            make, wrap = grpc.stream_unary_rpc_method_handler, self._call
            if method.server_streaming:
                make, wrap = grpc.stream_stream_rpc_method_handler, self._stream
            most_bytes = _MOST_BYTES.get(method.name, MOST_BYTES)
            found[method.name] = make(
                wrap(method.name, kind, most_bytes, behaviour), response_serializer=_bytes
            )
        return grpc.method_handlers_generic_handler(service.full_name, found)

    def caller(self, context: grpc.aio.ServicerContext, scope: Scope) -> Caller:
        """Return who calls; a `Refusal` where that is nobody, or one who may not."""
        if self._tokens is None:
            return EVERYBODY
        given = [x for key, x in context.invocation_metadata() or () if key == "authorization"]
        try:
            caller = self._tokens.caller(given)
        except TokenError as error:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        if caller.scope < scope:
            raise Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token {caller.id!r} has the scope {caller.scope.name.lower()}; this call "
                f"needs {scope.name.lower()}",
            )
        return caller

    def _call(
        self, method: str, kind: type[Message], most_bytes: int, behaviour: Callable[..., Any]
    ) -> Callable[..., Any]:
        async def handle(_: object, context: grpc.aio.ServicerContext) -> Any:
            with _Account(method, self._figures) as account:
                try:
                    account.caller = self.caller(context, SCOPES[method])
                    request = await received(context, kind, most_bytes)
                    async with asyncio.timeout(LONGEST_S):
                        return await behaviour(request, account.caller)
                except Exception as error:
                    await account.refuse(error, context)

        return handle

    def _stream(
        self, method: str, kind: type[Message], most_bytes: int, behaviour: Callable[..., Any]
    ) -> Callable[..., Any]:
        async def handle(
            _: object, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[Message | bytes]:
            with _Account(method, self._figures) as account:
                try:
                    account.caller = self.caller(context, SCOPES[method])
                    request = await received(context, kind, most_bytes)
                    messages = behaviour(request, account.caller)
                    try:
                        async for message in messages:
                            self.caller(context, SCOPES[method])  # the token may have gone
                            yield message
                    finally:
                        await messages.aclose()
                except Exception as error:
                    await account.refuse(error, context)

        return handle


class _Account:
    """One call: counted, timed, and logged when it is over."""

    def __init__(self, method: str, figures: Figures) -> None:
        self.caller: Caller | None = None
        self._method = method
        self._figures = figures
        self._code = grpc.StatusCode.OK
        self._detail = ""

    def __enter__(self) -> _Account:
        self._begun = time.perf_counter()
        self._figures.begin(self._method)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and self._code is grpc.StatusCode.OK:
            self._code = grpc.StatusCode.CANCELLED
        seconds = time.perf_counter() - self._begun
        self._figures.end(self._method, self._code.name, seconds)
        line = {
            "method": self._method,
            "code": self._code.name,
            "ms": round(1000 * seconds, 2),
            "tenant": self.caller.tenant if self.caller else None,
            "token": self.caller.id if self.caller else None,
        }
        if self._detail:
            line["detail"] = self._detail[:500]
        _log.info("call", extra={"fields": line})

    async def refuse(self, error: Exception, context: grpc.aio.ServicerContext) -> None:
        """End the call with the status that an error means."""
        refusal = refusal_of(error)
        if isinstance(error, TimeoutError):
            refusal = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"not done in {LONGEST_S:g} s")
        if refusal is None:
            refusal = Refusal(grpc.StatusCode.INTERNAL, "the server has logged what is wrong")
        if refusal.code is grpc.StatusCode.INTERNAL and refusal is not error:
            is_ours = isinstance(error, AutopruneError)
            _log.error("%s: %s", self._method, error, exc_info=None if is_ours else error)
        self._code, self._detail = refusal.code, refusal.message
        context.set_trailing_metadata((("grpc-status-details-bin", refusal.status()),))
        await context.abort(refusal.code, refusal.message)


def require_scopes() -> None:
    """Raise `LookupError` where a method has no scope, or a scope no method."""
    methods = {method.name for service in SERVICES for method in service.methods}
    if methods != set(SCOPES):
        raise LookupError(f"methods and scopes differ in {sorted(methods ^ set(SCOPES))}")


def _bytes(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
