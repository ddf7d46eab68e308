"""A gRPC server that answers as a test says: what the real one cannot do on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.status_pb2 import Status

from cluster.client import AsyncClient, Client
from cluster.proto.autoprune.v1 import front_service_pb2_grpc as front_grpc
from cluster.proto.autoprune.v1 import search_service_pb2_grpc as search_grpc


@dataclass(frozen=True)
class Fail:
    """Ends a call with a code, a text, and details of google.rpc."""

    code: grpc.StatusCode
    text: str = "as the test wants it"
    details: Sequence[Any] = ()

    def end(self, context: Any) -> None:
        packed = [Packed() for _ in self.details]
        for each, detail in zip(packed, self.details, strict=True):
            each.Pack(detail)
        status = Status(code=self.code.value[0], message=self.text, details=packed)
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(self.code, self.text)


class ScriptedServer:
    """Answers each method's calls with its `script`, one entry a call, the last one for ever.

    An entry is a message, a `Fail`, a function of request and context, or for streams a list of
    these. `calls` are the requests so far, `metadata` what came with them.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        search_grpc.add_SearchServiceServicer_to_server(
            self._servicer(search_grpc.SearchServiceServicer), self._server
        )
        front_grpc.add_FrontServiceServicer_to_server(
            self._servicer(front_grpc.FrontServiceServicer), self._server
        )
        self.target = f"localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()

    def requests(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    def stop(self) -> None:
        self._server.stop(0).wait()

    def _servicer(self, kind: type[Any]) -> Any:
        streams = {"WatchJob", "WatchFront", "ExportTrial"}
        methods = {
            name: self._streamed(name) if name in streams else self._answered(name)
            for name in vars(kind)
            if name[0].isupper()
        }
        return type("Scripted", (kind,), methods)()

    def _next(self, name: str, request: Any, context: Any) -> Any:
        self.calls.append((name, request))
        self.metadata.append(dict(context.invocation_metadata()))
        script = self.script[name]
        return script.pop(0) if len(script) > 1 else script[0]

    def _answered(self, name: str) -> Callable[..., Any]:
        return lambda _, request, context: _made(
            self._next(name, request, context), request, context
        )

    def _streamed(self, name: str) -> Callable[..., Any]:
        def stream(_: Any, request: Any, context: Any) -> Iterator[Any]:
            for each in self._next(name, request, context):
                yield _made(each, request, context)

        return stream


def _made(entry: Any, request: Any, context: Any) -> Any:
    if isinstance(entry, Fail):
        entry.end(context)
    return entry(request, context) if callable(entry) else entry


class Awaited:
    """An `AsyncClient` that can be used like a `Client`."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._made(*given, **options))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            found = getattr(self._client, name)(*given, **options)
            if hasattr(found, "__aiter__"):
                return self._iterated(found)
            return self._loop.run_until_complete(found)

        return call

    async def _made(self, *given: Any, **options: Any) -> AsyncClient:
        return AsyncClient(*given, **options)  # within the loop that it will run on

    def _iterated(self, found: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(anext(found))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(found.aclose())


CLIENTS = [Client, Awaited]
