"""Limits and deadlines of connections.

uvicorn has no deadline for the head of a request, for a client that does not read, or for a connection without a
request. A connection is known once a request on it carried a valid session or token. Unknown connections are limited by
address and in total; beyond the limit the one idle for longest is closed. So new connections are always accepted, and
silent ones displace only each other.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from preread.core.addresses import client_network

HEAD_WITHIN_S = 10.0
READ_WITHIN_S = 30.0
LINGER_S = 2.0
UNKNOWN_AT_MOST = 600
UNKNOWN_EACH = 200
KNOWN_AT_MOST = 2000
_FILES = 8192
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class ConnectionLimit:
    """Open connections of one server.

    Args:
        is_proxy: returns whether an address is the proxy's, whose connections carry requests of many clients.
        unknown_at_most: limit of unknown connections in total.
        unknown_each: limit of unknown connections by address.
        known_at_most: limit of known connections.
    """

    def __init__(
        self,
        is_proxy: Callable[[str], bool] = lambda _: False,
        *,
        unknown_at_most: int = UNKNOWN_AT_MOST,
        unknown_each: int = UNKNOWN_EACH,
        known_at_most: int = KNOWN_AT_MOST,
    ) -> None:
        self._is_proxy = is_proxy
        self._at_most = {False: unknown_at_most, True: known_at_most}
        self._each = unknown_each
        # dicts keep their order: the connection that was longest without a request comes first
        self._open: dict[bool, dict[GuardedProtocol, None]] = {False: {}, True: {}}
        self._by_source: dict[str, dict[GuardedProtocol, None]] = {}

    def enter(self, connection: GuardedProtocol) -> bool:
        """Add a connection, closing an idle one if there are too many.

        Returns:
            ``False`` if there is no room.
        """
        line = self._by_source.setdefault(connection.source, {})
        line[connection] = None
        self._open[False][connection] = None
        return self._make_room(connection, line)

    def leave(self, connection: GuardedProtocol) -> None:
        """Remove a connection."""
        self._open[connection.known].pop(connection, None)
        line = self._by_source.get(connection.source)
        if line is not None:
            line.pop(connection, None)
            if not line:
                del self._by_source[connection.source]

    def idle_again(self, connection: GuardedProtocol) -> None:
        """Move a connection to the end of its queue after a response."""
        for line in (self._open[connection.known], self._by_source.get(connection.source, {})):
            if connection in line:
                del line[connection]
                line[connection] = None

    def mark_known(self, connection: GuardedProtocol) -> None:
        """Mark a connection that carried a valid session or token as known."""
        if connection.known or connection not in self._open[False]:
            return
        self.leave(connection)
        connection.known = True
        self._open[True][connection] = None
        self._drop_if(len(self._open[True]) > self._at_most[True], self._open[True], connection)

    def close_idle(self) -> None:
        """Close all connections without a request, at the end of the server."""
        for line in self._open.values():
            for connection in [connection for connection in line if connection.waits]:
                connection.drop()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def _make_room(self, connection: GuardedProtocol, line: dict[GuardedProtocol, None]) -> bool:
        each = len(line) > self._each and not self._is_proxy(connection.peer)
        return self._drop_if(each, line, connection) and self._drop_if(
            len(self._open[False]) > self._at_most[False], self._open[False], connection
        )

    @staticmethod
    def _drop_if(full: bool, line: dict[GuardedProtocol, None], newcomer: GuardedProtocol) -> bool:
        if full:
            idle = next((connection for connection in line if connection.waits and connection is not newcomer), None)
            if idle is None:
                return False
            idle.drop()
        return True


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 protocol of uvicorn with deadlines and connection limits.

    It performs TLS itself so that handshakes are limited, too.

    Args:
        config: see uvicorn.
        server_state: see uvicorn.
        app_state: see uvicorn.
        gate: limits shared by all connections of a server.
        context: TLS context; ``None`` for plain HTTP.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: ConnectionLimit,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._gate = gate
        self._context = context
        self._raw: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] | None = []  # data received before the connection began
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._deaf = False
        self._worked_on = False
        self.peer = ""
        self.source = ""
        self.known = False

    @property
    def waits(self) -> bool:
        """True if the connection is idle or was not admitted yet."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete or not (self.known or self._worked_on)

    @property
    def gone(self) -> bool:
        """True if the client has disconnected."""
        return self.transport.is_closing()

    def work(self) -> None:
        """Mark the current request as admitted."""
        self._worked_on = True

    def mark_known(self) -> None:
        """See ``ConnectionLimit.mark_known``."""
        self._gate.mark_known(self)

    def refuse_rest(self) -> None:
        """Discard further data and close the connection after the response."""
        self._deaf = True

    def drop(self) -> None:
        """Close the connection at once."""
        self._gate.leave(self)
        transport = self._transport()
        if transport is not None:
            transport.abort()

    def _transport(self) -> asyncio.Transport | None:
        return self.transport if self._early is None else self._raw

    # ------------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start a connection once it is admitted and has TLS."""
        self._raw = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.source = client_network(self.peer)
        self._arm(HEAD_WITHIN_S)
        if not self._gate.enter(self):
            self.drop()
        elif self._context is None:
            self._begin(transport)
        else:
            self._handshake = self.loop.create_task(self._begin_tls(transport, self._context))

    async def _begin_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            secured = await self.loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HEAD_WITHIN_S
            )
        except OSError:
            secured = None  # the client does not speak TLS, or went away
        if secured is None:
            self._end()
            transport.abort()
            return
        early = self._early or []
        self._begin(secured)
        # the last message of a handshake may carry the first request
        for data in early:
            self.data_received(data)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._early = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Process received data."""
        if self._deaf:
            return
        if self._early is not None:
            self._early.append(data)
            return
        super().data_received(data)

    def handle_events(self) -> None:
        """Process requests; the deadline for the head ends with the head."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._disarm()

    def on_response_complete(self) -> None:
        """Wait for the next request for a limited time."""
        self._worked_on = False
        self._gate.idle_again(self)
        self._arm(LINGER_S if self._deaf else HEAD_WITHIN_S)
        if self._deaf and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            return
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not read."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(READ_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the deadline for reading."""
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._end()
        if self._early is None:
            super().connection_lost(exc)

    # ------------------------------------------------------------------ deadlines

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_slow(self) -> None:
        self._timer = None
        transport = self._transport()
        if transport is None:
            return
        begun = self._early is None and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if transport.is_closing() or self._deaf or not begun:
            transport.abort()
            return
        transport.write(_TOO_SLOW)
        transport.close()
        # a client that does not read this either would keep the connection open
        self._timer = self.loop.call_later(LINGER_S, transport.abort)

    def _end(self) -> None:
        self._gate.leave(self)
        self._disarm()
        self._stop_write_timer()


def raise_file_limit() -> None:
    """Raise the limit of open files to the number of connections if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
