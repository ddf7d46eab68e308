"""What everybody may ask without a token: health, and what services there are.

    public = Public(["autoprune.v1.SearchService"])
    server.add_generic_rpc_handlers(public.handlers())
    public.set("autoprune.v1.SearchService", is_serving=True)

The health service of `grpc_health` forgets watchers when one of them leaves, and waits for one
that does not read before it tells the others, or lets the server stop. Both services are bounded
here: whoever has no token must not be able to use up the calls of those who have one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cluster.service.refusal import Refusal
from cluster.service.request import NoRequest, received

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_MOST_CALLS = 500
_REFLECTION_S = 60.0  # tools keep the stream while people type
_Answers = Callable[[grpc.aio.ServicerContext], AsyncGenerator[Message, None]]


class Public:
    """Health and reflection of a server that has the services `names`, these two besides."""

    def __init__(self, names: Iterable[str]) -> None:
        self._states: dict[str, HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()
        self._reflection = reflection.aio.ReflectionServicer(
            [*names, _HEALTH, reflection.SERVICE_NAME]
        )
        self._calls = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return handlers of both services. All answer with streams, which one may be too."""
        health = {"Check": self._handler(self._check), "Watch": self._handler(self._watch)}
        info = {"ServerReflectionInfo": self._handler(self._info)}
        return (
            grpc.method_handlers_generic_handler(_HEALTH, health),
            grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, info),
        )

    def set(self, name: str, *, is_serving: bool) -> None:
        """Say whether a part of the server serves; the name of all of it is empty."""
        states = HealthCheckResponse
        self._states[name] = states.SERVING if is_serving else states.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    def shut(self) -> None:
        """Say that nothing serves any more."""
        for name in self._states:
            self.set(name, is_serving=False)

    def _handler(self, answers: _Answers) -> grpc.RpcMethodHandler:
        async def handle(
            _: object, context: grpc.aio.ServicerContext
        ) -> AsyncGenerator[Message, None]:
            if self._calls >= _MOST_CALLS:
                message = "too many calls of health and reflection are under way"
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
            self._calls += 1
            try:
                async with aclosing(answers(context)) as found:
                    async for answer in found:
                        yield answer
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.message)
            finally:
                self._calls -= 1

        return grpc.stream_stream_rpc_method_handler(
            handle, response_serializer=lambda answer: answer.SerializeToString()
        )

    async def _check(self, context: grpc.aio.ServicerContext) -> AsyncGenerator[Message, None]:
        request = await received(context, HealthCheckRequest)
        if request.service not in self._states:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "there is no such service")
        yield HealthCheckResponse(status=self._states[request.service])

    async def _watch(self, context: grpc.aio.ServicerContext) -> AsyncGenerator[Message, None]:
        request = await received(context, HealthCheckRequest)
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                yield HealthCheckResponse(status=state)
                told = state
            await changed.wait()

    async def _info(self, context: grpc.aio.ServicerContext) -> AsyncGenerator[Message, None]:
        answers = self._reflection.ServerReflectionInfo(_questions(context), context)
        async with aclosing(answers) as found:
            async for answer in found:
                yield answer


async def _questions(
    context: grpc.aio.ServicerContext,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    with suppress(NoRequest):
        while True:
            yield await received(
                context, reflection_pb2.ServerReflectionRequest, patience_s=_REFLECTION_S
            )
