"""Figures of the server for Prometheus, on a port of their own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # of a connection on which nothing comes: each costs a thread

    def log_message(self, *_: object) -> None:
        """Log nothing: whoever looks does so every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _Server6(_Server):
    address_family = socket.AF_INET6


class Figures:
    """Calls, their seconds, streams and jobs; a registry of its own, for several servers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "autoprune_calls",
            "Calls by method and status.",
            ("method", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "autoprune_call_seconds",
            "Seconds of calls, streams included.",
            ("method",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._under_way = Gauge(
            "autoprune_calls_under_way",
            "Calls that are being answered.",
            ("method",),
            registry=self.registry,
        )
        self._gauges: dict[str, Gauge] = {}

    def begin(self, method: str) -> None:
        """Count a call that begins."""
        self._under_way.labels(method).inc()

    def end(self, method: str, code: str, seconds: float) -> None:
        """Count a call that is over."""
        self._under_way.labels(method).dec()
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def show(self, name: str, meaning: str, look: Callable[[], float]) -> None:
        """Show a figure that is looked up whenever somebody asks."""
        self._gauges[name] = Gauge(f"autoprune_{name}", meaning, registry=self.registry)
        self._gauges[name].set_function(look)

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serve the figures at http://HOST:PORT/metrics; return what ends that."""
        server = make_server(
            host.strip("[]"),
            port,
            make_wsgi_app(self.registry),
            _Server6 if ":" in host else _Server,
            _Handler,
        )
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close
