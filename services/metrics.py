"""Counters for Prometheus, in a registry of the service's own, and an optional page of them on loopback."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from parley.errors import InputError
from services.settings import is_loopback, split_address


class Metrics:
    """What a service counts. No label holds anything but roles, methods, peers' names and states."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "parley_calls", "Calls that have ended.", ["method", "role", "code"], registry=self.registry
        )
        self.calls_active = Gauge("parley_calls_active", "Calls under way.", ["method"], registry=self.registry)
        self.call_seconds = Histogram(
            "parley_call_seconds", "Seconds that calls took.", ["method"], registry=self.registry
        )
        self.sessions = Gauge("parley_sessions", "Sessions that are open.", registry=self.registry)
        self.executions = Counter("parley_executions", "Executions of plans.", registry=self.registry)
        self.stream_bytes = Counter(
            "parley_stream_bytes", "Bytes of messages of sessions.", ["direction"], registry=self.registry
        )
        self.stream_messages = Counter(
            "parley_stream_messages", "Messages of sessions.", ["direction"], registry=self.registry
        )
        self.wait_seconds = Counter(
            "parley_wait_seconds", "Seconds that sessions waited for other nodes.", registry=self.registry
        )
        self.jobs = Counter("parley_jobs", "Jobs that have ended.", ["state"], registry=self.registry)

    def serve(self, address: str) -> MetricsPage:
        """Serve the counters over HTTP at `host:port` (0: any free port); raises InputError unless it is loopback."""
        host, port = split_address(address, "metrics_listen")
        if not is_loopback(host):
            raise InputError(f"metrics_listen is {address}: metrics are served on loopback only")
        try:
            server, thread = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise InputError(f"metrics_listen is {address}, which cannot be had: {error.strerror}") from error
        return MetricsPage(server, thread)


class MetricsPage:
    """The running page of metrics."""

    def __init__(self, server: object, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(getattr(self._server, "server_port", 0))

    def stop(self) -> None:
        """Stop serving."""
        for name in ("shutdown", "server_close"):
            getattr(self._server, name)()
        self._thread.join(5)
