"""HTTP server for ``GET /health`` and ``GET /metrics``.

It cannot hinder the worker: requests are answered by a few threads of their own, each within seconds, and the database
is queried by one thread at most once a second (metrics: once in 15 s, drift: once in 10 min) for any number of
requests.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Protocol, TypeVar

from preread.core.addresses import host_from_header
from preread.core.errors import DatabaseAway, EnvironmentFault, InternalError, PrereadError
from preread.monitoring import health
from preread.monitoring.health import Health, Level

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
PATH = "/health"
METRICS_PATH = "/metrics"
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FRESH_S = 1.0
ANSWER_WITHIN_S = 3.0
_REQUEST_WITHIN_S = 5.0
_AT_ONCE = 16
ANY_HOST = "*"
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class Prober(threading.Thread, Generic[T]):
    """Background refresh of a cached value, so that a query never blocks.

    Args:
        name: name of the thread.
        probe: computes the value.
        failed: returns the value to use if ``probe`` raises.
        fresh_s: a value of this age in seconds is returned without a refresh.
        kept_s: a value of this age is returned if the refresh is late.
        within_s: how long ``get`` waits for a refresh, in seconds.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], T],
        failed: Callable[[PrereadError], T],
        *,
        fresh_s: float,
        kept_s: float = 0.0,
        within_s: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._probe = probe
        self._failed = failed
        self._fresh_s = fresh_s
        self._kept_s = max(fresh_s, kept_s)
        self._within_s = within_s
        self._changed = threading.Condition()
        self._wanted = False
        self._ended = False
        self._latest: tuple[float, T] | None = None

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if self._ended:
                    return
                self._wanted = False
            found = self._look()
            with self._changed:
                self._latest = time.monotonic(), found
                self._changed.notify_all()

    def _look(self) -> T:
        try:
            return self._probe()
        except PrereadError as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001  the endpoint must keep answering
            _LOG.exception("health_failed")
            return self._failed(InternalError(f"the report failed: {type(error).__name__}"))

    def get(self) -> T:
        """Return a fresh value, else a kept one, else that of a timeout."""
        asked_at = time.monotonic()

        def younger(age_s: float) -> bool:
            return self._latest is not None and self._latest[0] >= asked_at - age_s

        with self._changed:
            if not younger(self._fresh_s):
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: younger(self._fresh_s), self._within_s)
            if self._latest is not None and younger(self._kept_s):
                return self._latest[1]
        return self._failed(DatabaseAway(f"the database has not answered within {self._within_s:g} s"))

    def stop(self) -> None:
        """Request the end of the thread, which may hang in a query."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class MetricsSource(Protocol):
    """Source of the metrics page.

    ``database_metrics.MetricsPage`` implements it; it is imported only if metrics are served.
    """

    def start(self) -> None:
        """Start the background refresh."""

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format, within seconds."""

    def stop(self) -> None:
        """Stop the background refresh."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "preread"
    sys_version = ""
    timeout = _REQUEST_WITHIN_S

    def do_GET(self) -> None:
        if not self._is_meant():
            # DNS rebinding: a page of another site could let its own name point here and read the answers
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, explain="PREREAD_HEALTH_HOSTS does not name this host")
            return
        path = self.path.partition("?")[0]
        metrics = self.server.metrics
        if path == PATH:
            report = self.server.prober.get()
            critical = report.level is Level.CRITICAL
            body = json.dumps(report.to_json()).encode("ascii") + b"\n"
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE if critical else HTTPStatus.OK, "application/json", body)
        elif path == METRICS_PATH and metrics is not None:
            self._answer(HTTPStatus.OK, _METRICS_TYPE, metrics.text())
        else:
            here = PATH if metrics is None else f"{PATH} and {METRICS_PATH}"
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"there is {here} here and nothing else")

    def _is_meant(self) -> bool:
        """Return whether the Host header names this server (DNS rebinding)."""
        hosts = self.headers.get_all("Host") or []
        if not hosts:
            return self.request_version == "HTTP/1.0"  # has no such header, and browsers do not send HTTP/1.0
        return len(hosts) == 1 and self.server.is_named(host_from_header(hosts[0]))

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  named by http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  named by http.server
        """Log nothing: the log belongs to the worker."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], prober: Prober[Health], metrics: MetricsSource | None, hosts: frozenset[str]
    ) -> None:
        self.prober = prober
        self._hosts = hosts | _THIS_MACHINE | {address[0].lower()}
        self.metrics = metrics
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def is_named(self, host: str) -> bool:
        """Return whether this host name is allowed."""
        return host in self._hosts or ANY_HOST in self._hosts

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # a client that sends a byte now and then would occupy its thread for ever
        give_up = threading.Timer(2 * _REQUEST_WITHIN_S, self.shutdown_request, [request])
        give_up.daemon = True
        give_up.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            give_up.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed request at debug level, without its values."""
        _LOG.debug("health_request_failed", exc_info=True)


def _open(
    address: tuple[str, int],
    prober: Prober[Health],
    metrics: MetricsSource | None,
    others: Iterator[int],
    hosts: frozenset[str],
) -> _Server:
    """Bind the server; try the other ports while one is in use."""
    try:
        return _Server(address, prober, metrics, hosts)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and (port := next(others, None)) is not None:
            return _open((address[0], port), prober, metrics, others, hosts)
        where = f"{address[0]}:{address[1]}"
        raise EnvironmentFault(f"the health address {where} cannot be used: {error.strerror}") from error


@contextlib.contextmanager
def serve(
    address: tuple[str, int],
    probe: Callable[[], Health],
    metrics: MetricsSource | None = None,
    *,
    other_ports: Iterable[int] = (),
    hosts: frozenset[str] = frozenset(),
) -> Iterator[int]:
    """Serve ``/health`` and, if given, ``/metrics`` while the block runs.

    Args:
        address: host and port; port 0 selects a free one.
        probe: returns a health report; called from another thread.
        metrics: source of ``/metrics``; ``None`` serves none.
        other_ports: ports to try in order if that one is in use.
        hosts: allowed host names beside those of this machine; ``*`` allows any.

    Yields:
        The port in use.

    Raises:
        EnvironmentFault: the address cannot be bound.
    """
    prober = Prober("health", probe, health.unavailable, fresh_s=_FRESH_S, within_s=ANSWER_WITHIN_S)
    server = _open(address, prober, metrics, iter(other_ports), hosts)
    probers = (prober,) if metrics is None else (prober, metrics)
    for prober_ in probers:
        prober_.start()
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="health-http", daemon=True)
    thread.start()
    _LOG.info("health_served", extra={"address": f"{address[0]}:{server.server_port}"})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        for prober_ in probers:
            prober_.stop()
