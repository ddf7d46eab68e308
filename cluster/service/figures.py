"""Figures of the server for Prometheus, on a port of their own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


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
        server, thread = start_http_server(port, host, registry=self.registry)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close
