"""Listening: on this machine alone, unless TLS or a proxy that brings it stands in front."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from preread.core.addresses import is_loopback
from preread.core.errors import EnvironmentFault, SettingsError
from preread.core.systemd import SILENT, Notifier
from preread.web.forwarded import Proxies
from preread.web.limits.connections import Gate, GuardedProtocol, raise_file_limit

_LOG = logging.getLogger(__name__)
_BACKLOG = 128
_GRACE_S = 20


def refuse_open_address(host: str, *, tls: bool, proxy: str | None) -> None:
    """Refuse to listen where others can read along.

    Raises:
        SettingsError: the address is not this machine's own, and nothing brings TLS.
    """
    if not (is_loopback(host) or tls or proxy):
        raise SettingsError(
            f"PREREAD_WEB_HOST is {host!r}, which others can reach: passwords and films would go there in the open; "
            "set PREREAD_WEB_TLS_CERT and PREREAD_WEB_TLS_KEY, or PREREAD_WEB_PROXY if a proxy brings TLS"
        )


def configure(
    app: FastAPI, *, tls_cert: Path | None = None, tls_key: Path | None = None, proxy: str | None = None
) -> uvicorn.Config:
    """Return how the page is served, whatever address it listens on. For ``proxy`` see ``PREREAD_WEB_PROXY``.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """
    # the protocol brings TLS itself, and ``Forwarded`` what a proxy says
    config = uvicorn.Config(
        app,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_S,
    )
    try:
        config.load()
    except OSError as error:
        raise SettingsError(f"the certificate {tls_cert} or its key {tls_key} cannot be used: {error}") from error
    context, config.ssl = config.ssl, None
    proxies = Proxies(proxy)
    if proxies.any:
        # each peer is believed: whoever reaches the port past the proxy can write any address
        _LOG.warning("proxy_unnamed")
    gate = Gate(proxies.__contains__)
    config.http_protocol_class = cast("type[asyncio.Protocol]", partial(GuardedProtocol, gate=gate, context=context))
    return config


def serve(
    app: FastAPI,
    *,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy: str | None,
    notifier: Notifier = SILENT,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        notifier: tells systemd that requests are answered.

    Raises:
        SettingsError: the certificate or its key cannot be used.
        EnvironmentFault: the address cannot be listened on.
    """
    config = configure(app, tls_cert=tls_cert, tls_key=tls_key, proxy=proxy)
    raise_file_limit()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise EnvironmentFault(f"{host} port {port} cannot be listened on: {error.strerror}") from error
    with listening:
        # the server passes a signal on when it has ended in good order; it has done its work then
        signal.signal(signal.SIGTERM, lambda *_: None)
        _Server(config, notifier).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says when it answers requests, and then that it goes on doing so."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier
        self._beats: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._notifier.ready()
            self._beats = asyncio.create_task(self._beat())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.stopping()
        if self._beats is not None:
            self._beats.cancel()
        await super().shutdown(sockets)

    async def _beat(self) -> None:
        while self._notifier.beat_s is not None:
            # from a thread of those that answer requests: where all of them hang, so does this
            await to_thread.run_sync(self._notifier.beat)
            await asyncio.sleep(self._notifier.beat_s / 2)
