"""``GET /health`` of a running worker: the report of ``worker.health`` for monitoring that asks over HTTP.

Nothing here can hinder the worker: requests are answered by threads of their own, a few at a time and each within
seconds, and whatever their number the database is asked once a second at most, by one thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker import health
from worker.errors import DatabaseAway, EnvironmentFault, InternalError, PrereadError
from worker.health import Health, Level

_LOG = logging.getLogger(__name__)
PATH = "/health"
_FRESH_S = 1.0
_ANSWER_WITHIN_S = 3.0
_REQUEST_WITHIN_S = 5.0
_AT_ONCE = 16


class _Prober(threading.Thread):
    """Asks the database when somebody wants to know; a database that hangs holds up this thread alone."""

    def __init__(self, probe: Callable[[], Health]) -> None:
        super().__init__(name="health", daemon=True)
        self._probe = probe
        self._changed = threading.Condition()
        self._wanted = False
        self._ended = False
        self._latest: tuple[float, Health] | None = None

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

    def _look(self) -> Health:
        try:
            return self._probe()
        except PrereadError as error:
            return health.unavailable(error)
        except Exception as error:  # noqa: BLE001  an endpoint that fell silent would tell less
            _LOG.exception("health_failed")
            return health.unavailable(InternalError(f"the report failed: {type(error).__name__}"))

    def ask(self) -> Health:
        """Return a report that is a second old at most, or, when none comes in time, one that says so."""
        asked_at = time.monotonic()

        def fresh() -> bool:
            return self._latest is not None and self._latest[0] >= asked_at - _FRESH_S

        with self._changed:
            if not fresh():
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait_for(fresh, _ANSWER_WITHIN_S)
            if self._latest is not None and fresh():
                return self._latest[1]
        return health.unavailable(DatabaseAway(f"the database has not answered within {_ANSWER_WITHIN_S:g} s"))

    def end(self) -> None:
        """Ask the thread to end; it may hang in the database and not do so."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "preread"
    sys_version = ""
    timeout = _REQUEST_WITHIN_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"there is {PATH} here and nothing else")
            return
        found = self.server.prober.ask()
        body = json.dumps(found.to_json()).encode("ascii") + b"\n"
        red = found.level is Level.CRITICAL
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if red else HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  named by http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  named by http.server
        """Say nothing: the log is the worker's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], prober: _Prober) -> None:
        self.prober = prober
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # a client that sends a byte now and then would keep its place for ever
        give_up = threading.Timer(2 * _REQUEST_WITHIN_S, self.shutdown_request, [request])
        give_up.daemon = True
        give_up.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            give_up.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's fault; what else failed is told without its values."""
        _LOG.debug("health_request_failed", exc_info=True)


@contextlib.contextmanager
def serving(address: tuple[str, int] | None, probe: Callable[[], Health]) -> Iterator[int | None]:
    """Answer ``GET /health`` while the block runs.

    Args:
        address: host and port; port 0 takes a free one; ``None`` serves nothing.
        probe: makes a report; called from another thread.

    Yields:
        The port.

    Raises:
        EnvironmentFault: the address cannot be used.
    """
    if address is None:
        yield None
        return
    prober = _Prober(probe)
    try:
        server = _Server(address, prober)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise EnvironmentFault(f"the health address {where} cannot be used: {error.strerror}") from error
    prober.start()
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="health-http", daemon=True)
    thread.start()
    _LOG.info("health_served", extra={"address": f"{address[0]}:{server.server_port}"})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        prober.end()
