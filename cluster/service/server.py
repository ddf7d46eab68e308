"""The server: a plain process that holds no job, and answers whether Ray is up or not.

server = Server(Settings(directory=Path("service")))
await server.start()                    # listens at server.port
await server.stop()                     # lets calls under way end
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import IO

import grpc

from autoprune.errors import InputError
from autoprune.store.sql import SqlStore
from cluster.client.connection import TOKEN
from cluster.service.admission import Admission
from cluster.service.catalog import Catalog
from cluster.service.desk import Desk
from cluster.service.dispatcher import Dispatch, Dispatcher
from cluster.service.exports import Exports
from cluster.service.figures import Figures
from cluster.service.front_service import FrontService
from cluster.service.guard import SERVICES, Guard, require_scopes
from cluster.service.identity import Tokens
from cluster.service.live import Logs
from cluster.service.public import Public
from cluster.service.registry import Registry, Wanted
from cluster.service.search_service import SearchService
from cluster.service.settings import Settings
from cluster.service.watching import Watchers

EXECUTION = "autoprune.v1.Execution"
"""What the health service calls the part that searches; it is not there while Ray is not."""

_GRACE_S = 5.0
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is refused, not served half of the time
    ("grpc.max_receive_message_length", 4 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.max_metadata_size", 16 * 2**10),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Connections that nobody is at the other end of are noticed, and idle ones let go.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_connection_idle_ms", 600_000),
)
_MOST_CALLS = 4000  # streams included
_log = logging.getLogger("autoprune.service")


class Server:
    """Everything that serves, put together. Raises `InputError` for what cannot be used."""

    def __init__(self, settings: Settings) -> None:
        require_scopes()
        self.port = 0
        self._settings = settings
        directory = settings.directory
        self._lock = _locked(directory)
        tokens = Tokens(settings.token_file) if settings.token_file else None
        catalog = Catalog.read(settings.catalog) if settings.catalog else Catalog()
        shared = SqlStore(settings.store) if settings.store else None
        self._registry = Registry(settings.store or directory / "service.sqlite")
        self._shared = shared
        self._logs = Logs(directory, shared)
        self._figures = Figures()
        self._public = Public(each.full_name for each in SERVICES)
        self._dispatcher = Dispatcher(
            self._registry,
            self._logs,
            Dispatch(settings.ray, settings.most_jobs, settings.store),
            on_change=lambda can_search: self._public.set(EXECUTION, is_serving=can_search),
        )
        self._admission = Admission(catalog)
        self._watchers = Watchers(
            self._registry, self._logs, self._dispatcher, settings.most_watchers
        )
        desk = Desk(self._registry, self._logs)
        self._search = SearchService(
            self._registry, desk, self._dispatcher, self._admission, self._watchers
        )
        self._guard = Guard(tokens, self._figures)
        self._front = FrontService(desk, Exports(self._logs))
        self._tasks: list[asyncio.Task[None]] = []
        self._close_figures: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Listen, and take up the jobs that have not ended; raises `InputError`."""
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MOST_CALLS)
        self._server.add_generic_rpc_handlers(
            tuple(
                self._guard.handlers(service, servicer)
                for service, servicer in zip(SERVICES, (self._search, self._front), strict=True)
            )
        )
        self._server.add_generic_rpc_handlers(self._public.handlers())
        self.port = self._listen()
        await self._server.start()
        for name in ("", *(each.full_name for each in SERVICES)):
            self._public.set(name, is_serving=True)
        self._public.set(EXECUTION, is_serving=False)
        self._serve_figures()
        await self._finish_deletions()
        self._tasks.append(asyncio.create_task(self._dispatcher.run()))
        _log.info("serving", extra={"fields": {"host": self._settings.host, "port": self.port}})

    async def stop(self) -> None:
        """Refuse new calls, let those under way end within seconds, and release everything."""
        _log.info("stopping")
        self._public.shut()
        await self._server.stop(_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._watchers.close()
        await self._admission.close()
        self._close_figures()
        self._logs.close()
        if self._shared is not None:
            self._shared.close()
        self._registry.close()
        self._lock.close()

    def _listen(self) -> int:
        settings = self._settings
        try:
            if settings.tls_cert is None:
                port: int = self._server.add_insecure_port(settings.target)
            else:
                port = self._server.add_secure_port(settings.target, _credentials(settings))
        except RuntimeError as error:
            raise InputError(f"cannot listen at {settings.target}: {error}") from error
        return port

    def _serve_figures(self) -> None:
        self._figures.show("watchers", "Open streams.", lambda: self._watchers.count)
        self._figures.show("jobs", "Jobs of all tenants.", lambda: len(self._registry.all()))
        self._figures.show(
            "execution_up", "Whether jobs can be searched.", lambda: not self._dispatcher.trouble
        )
        port = self._settings.metrics_port
        if port is None:
            return
        try:
            self._close_figures = self._figures.serve(self._settings.host, port)
        except OSError as error:
            raise InputError(f"cannot serve figures at port {port}: {error}") from error

    async def _finish_deletions(self) -> None:
        for job in self._registry.all():
            if job.wanted is Wanted.DELETE:
                await self._search.remove(job)


async def serve(settings: Settings, on_ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `on_ready` is given the port."""
    os.environ.pop(TOKEN, None)  # a client's, and no business of the processes that we start
    server = Server(settings)
    loop, ends = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ends.set)
    try:
        await server.start()
        on_ready(server.port)
        await ends.wait()
    finally:
        await server.stop()


def _locked(directory: Path) -> IO[bytes]:
    """Return an open file that says that a server works in a directory."""
    try:
        (directory / "jobs").mkdir(parents=True, exist_ok=True)
        file = (directory / "server.lock").open("ab")
    except OSError as error:
        raise InputError(f"{directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(f"another server works in {directory}: stop it, or name another") from None
    return file


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    cert, key, ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    assert cert is not None
    assert key is not None
    try:
        pair = (key.read_bytes(), cert.read_bytes())
        clients = ca.read_bytes() if ca is not None else None
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    checked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # gRPC would not say what is wrong
    try:
        checked.load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as error:
        raise InputError(f"{cert} and {key} are no certificate and its key: {error}") from error
    try:
        if ca is not None:
            checked.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise InputError(f"{ca} holds no certificates: {error}") from error
    return grpc.ssl_server_credentials([pair], clients, require_client_auth=ca is not None)
