"""TCP ports that tests running at the same time do not take from each other."""

from __future__ import annotations

import socket
from contextlib import ExitStack


class PortReservations:
    """Ports of 127.0.0.1 for programs that a test starts; none is given to anybody else until ``close``.

    A port that is looked up and closed again can be given to another process before the program listens on it. Here a
    socket stays bound to it: Linux then neither chooses the port for another socket nor for an outgoing connection,
    while a program that sets ``SO_REUSEADDR`` (http.server, uvicorn, Prometheus) may listen on it.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def reserve(self) -> int:
        """Return a port on which nothing listens."""
        held = self._held.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port

    def close(self) -> None:
        """Release all of them."""
        self._held.close()
