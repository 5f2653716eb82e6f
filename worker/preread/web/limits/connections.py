"""Connections: deadlines for what a client sends and reads, and who gives way when there are too many.

uvicorn has no deadline for a request's head, for a client that does not read, or for a connection without a request. A
connection is known once a request on it carried a valid session or token. Connections that are not known are limited by
address and in all; where there are too many, the one that has waited longest without a request is closed. So new
connections are always taken in, and silent ones push only each other out.
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


class Gate:
    """Open connections of one server.

    Args:
        is_proxy: whether an address is that of the proxy, whose connections carry everybody's requests.
        unknown_at_most: connections that are not known, in all.
        unknown_each: the same from one address.
        known_at_most: known connections.
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

    def enter(self, one: GuardedProtocol) -> bool:
        """Take a connection in, at the cost of an idle one if there are too many; False: there is no place."""
        line = self._by_source.setdefault(one.source, {})
        line[one] = None
        self._open[False][one] = None
        return self._make_room(one, line)

    def leave(self, one: GuardedProtocol) -> None:
        """Forget a connection."""
        self._open[one.known].pop(one, None)
        line = self._by_source.get(one.source)
        if line is not None:
            line.pop(one, None)
            if not line:
                del self._by_source[one.source]

    def idle_again(self, one: GuardedProtocol) -> None:
        """Note that a request was answered: others have been idle for longer."""
        for line in (self._open[one.known], self._by_source.get(one.source, {})):
            if one in line:
                del line[one]
                line[one] = None

    def vouch(self, one: GuardedProtocol) -> None:
        """Note that a request on this connection carried a valid session or token."""
        if one.known or one not in self._open[False]:
            return
        self.leave(one)
        one.known = True
        self._open[True][one] = None
        self._drop_if(len(self._open[True]) > self._at_most[True], self._open[True], one)

    def close_unheard(self) -> None:
        """Close every connection without a request, for the server's end."""
        for line in self._open.values():
            for one in [one for one in line if one.waits]:
                one.drop()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def _make_room(self, one: GuardedProtocol, line: dict[GuardedProtocol, None]) -> bool:
        each = len(line) > self._each and not self._is_proxy(one.peer)
        return self._drop_if(each, line, one) and self._drop_if(
            len(self._open[False]) > self._at_most[False], self._open[False], one
        )

    @staticmethod
    def _drop_if(full: bool, line: dict[GuardedProtocol, None], newcomer: GuardedProtocol) -> bool:
        if full:
            idle = next((one for one in line if one.waits and one is not newcomer), None)
            if idle is None:
                return False
            idle.drop()
        return True


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines, behind a gate, bringing TLS itself so that handshakes are counted too.

    Args:
        gate: shared by all connections of a server.
        context: for TLS; ``None`` for plain HTTP.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: Gate,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._gate = gate
        self._context = context
        self._raw: asyncio.Transport | None = None
        self._made = False
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._deaf = False
        self._worked_on = False
        self.peer = ""
        self.source = ""
        self.known = False

    @property
    def waits(self) -> bool:
        """Whether nothing is worked on for this client."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete or not (self.known or self._worked_on)

    @property
    def gone(self) -> bool:
        """Whether nobody is there any more."""
        return self.transport.is_closing()

    def work(self) -> None:
        """Note that what came last has a place and is worked on."""
        self._worked_on = True

    def vouch(self) -> None:
        """See ``Gate.vouch``."""
        self._gate.vouch(self)

    def refuse_rest(self) -> None:
        """Throw away what the client still sends, and end the connection when the answer is out."""
        self._deaf = True

    def drop(self) -> None:
        """End the connection at once."""
        self._gate.leave(self)
        transport = self._transport()
        if transport is not None:
            transport.abort()

    def _transport(self) -> asyncio.Transport | None:
        return self.transport if self._made else self._raw

    # ------------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection, once it has a place and TLS."""
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
        self._begin(secured)
        # the last message of a handshake may carry the first request
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._made = True
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._deaf:
            return
        if not self._made:
            self._early.append(data)
            return
        super().data_received(data)

    def handle_events(self) -> None:
        """Take requests in; the deadline for the head ends with the head."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._disarm()

    def on_response_complete(self) -> None:
        """Wait for the next request, but not for long."""
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
        """The client does not read as fast as is written."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(READ_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._end()
        if self._made:
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
        begun = self._made and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
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
    """Allow as many open files as there may be connections, as far as the system lets a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
