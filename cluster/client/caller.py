"""What both clients share: a channel, its calls, and what to do when one fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import grpc

from autoprune.errors import AutopruneError, ServiceError
from cluster.client.call import Call
from cluster.client.connection import Connection
from cluster.client.failure import asked_pause_s, is_broken_off, is_passing, translated
from cluster.client.following import Following, StreamBroken
from cluster.client.retry import Attempts, Patience
from cluster.proto.autoprune.v1.front_service_pb2_grpc import FrontServiceStub
from cluster.proto.autoprune.v1.search_service_pb2_grpc import SearchServiceStub

T = TypeVar("T")


class Caller:
    """Makes calls on a channel of `kind`, the module `grpc` or `grpc.aio`.

    `waiting` is called with what went wrong before every pause.
    """

    def __init__(
        self,
        connection: Connection | str,
        patience: Patience,
        waiting: Callable[[AutopruneError], None] | None,
        kind: Any,
    ) -> None:
        if isinstance(connection, str):
            connection = Connection.given(connection)
        self.connection = connection
        self.patience = patience
        self._waiting = waiting
        self.channel = connection.open(kind)
        self._stubs: Mapping[str, Any] = {
            "SearchService": SearchServiceStub(self.channel),  # type: ignore[no-untyped-call]
            "FrontService": FrontServiceStub(self.channel),  # type: ignore[no-untyped-call]
        }

    def attempts(self) -> Attempts:
        """Return the attempts that one call has."""
        return Attempts(self.patience.deadline_s, self.patience)

    def begin(self, call: Call[Any], timeout_s: float | None = None) -> Any:
        """Start a call; return what gRPC returns for it."""
        method = getattr(self._stubs[call.service], call.method)
        return method(call.request, timeout=timeout_s, metadata=self.connection.metadata)

    def read(self, call: Call[T], answer: Any) -> T:
        """Return what an answer says."""
        try:
            return call.read(answer)
        except (KeyError, ValueError, TypeError) as error:
            raise self._unreadable(error) from error

    def pause_s(self, call: Call[Any], attempts: Attempts, error: Any) -> float:
        """Return the pause before a call is repeated; raises what its failure means."""
        meaning = translated(error, call.method, self.connection)
        if not is_passing(error):
            # The last attempt may have no time left for an answer: what came before says more.
            is_cut_short = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            raise (attempts.reason if is_cut_short else None) or meaning from error
        return self.wait(attempts, meaning, asked_pause_s(error))

    def wait(
        self, attempts: Attempts, meaning: AutopruneError, asked_s: float | None = None
    ) -> float:
        """Return the pause after a failure, and tell of it; raises it where time is up."""
        attempts.reason = meaning
        pause = attempts.pause_s(asked_s)
        if pause is None:
            raise meaning
        if self._waiting is not None:
            self._waiting(meaning)
        return pause

    def _unreadable(self, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self.connection.target} sent an answer that cannot be read ({error!r}); is it of "
            "another version than this client?"
        )


class Pursuit(Generic[T]):
    """A stream that is followed through outages, each from a failure to the next progress."""

    def __init__(self, caller: Caller, following: Following[T]) -> None:
        self._caller = caller
        self._following = following
        self._call = following.call()
        self._limit_s = caller.patience.deadline_s
        self._outage: Attempts | None = None

    @property
    def is_finished(self) -> bool:
        """Say whether all of the stream was taken."""
        return self._following.is_finished

    def begin(self) -> Any:
        """Ask for what comes next; return what gRPC returns for it."""
        self._call = self._following.call()
        return self._caller.begin(self._call)

    def take(self, answer: Any) -> Sequence[T]:
        """Return what is new in a message; raises `StreamBroken` where some is missing."""
        found: Sequence[T] = self._caller.read(
            replace(self._call, read=self._following.take), answer
        )
        if self._following.is_progress(answer):
            self._limit_s = self._caller.patience.reconnect_s
            self._outage = None
        return found

    def pause_s(self, failure: Any) -> float:
        """Return the pause before `begin`; None failed where the server ended the stream early."""
        self._outage = self._outage or Attempts(self._limit_s, self._caller.patience)
        if failure is None or isinstance(failure, StreamBroken):
            target = self._caller.connection.target
            why = failure or "it ended before all was sent"
            return self._caller.wait(self._outage, ServiceError(f"stream from {target}: {why}"))
        meaning = translated(failure, self._call.method, self._caller.connection)
        if not is_broken_off(failure):
            raise meaning from failure
        return self._caller.wait(self._outage, meaning, asked_pause_s(failure))
