"""HTTP server of the page, on the loopback address unless TLS is used."""

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
from preread.web.limits.connections import ConnectionLimit, GuardedProtocol, raise_file_limit

_LOG = logging.getLogger(__name__)
_BACKLOG = 128
_GRACE_S = 20


def refuse_open_address(host: str, *, tls: bool, proxy: str | None) -> None:
    """Raise an error if the page would be reachable without TLS.

    Raises:
        SettingsError: the address is not a loopback address, and neither TLS nor a proxy is configured.
    """
    if not (is_loopback(host) or tls or proxy):
        raise SettingsError(
            f"PREREAD_WEB_HOST is {host!r}, reachable by others without encryption: "
            "set PREREAD_WEB_TLS_CERT and PREREAD_WEB_TLS_KEY, or PREREAD_WEB_PROXY if a proxy brings TLS"
        )


def configure(
    app: FastAPI, *, tls_cert: Path | None = None, tls_key: Path | None = None, proxy: str | None = None
) -> uvicorn.Config:
    """Return the configuration of the server.

    Args:
        app: application.
        tls_cert: certificate, or ``None`` without TLS.
        tls_key: its private key.
        proxy: see ``PREREAD_WEB_PROXY``.

    Raises:
        SettingsError: the certificate or its key cannot be loaded.
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
        # headers of any peer are trusted: a client that bypasses the proxy can forge its address
        _LOG.warning("proxy_unnamed")
    gate = ConnectionLimit(proxies.__contains__)
    config.http_protocol_class = cast("type[asyncio.Protocol]", partial(GuardedProtocol, gate=gate, context=context))
    return config


def serve(
    app: FastAPI,
    address: tuple[str, int],
    *,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxy: str | None,
    notifier: Notifier = SILENT,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: application.
        address: host and port.
        tls_cert: certificate, or ``None`` without TLS.
        tls_key: its private key.
        proxy: see ``PREREAD_WEB_PROXY``.
        notifier: notifies systemd of readiness.

    Raises:
        SettingsError: the certificate or its key cannot be loaded.
        EnvironmentFault: the address cannot be bound.
    """
    config = configure(app, tls_cert=tls_cert, tls_key=tls_key, proxy=proxy)
    raise_file_limit()
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise EnvironmentFault(f"{host} port {port} cannot be listened on: {error.strerror}") from error
    with listening:
        # uvicorn raises the signal again after a graceful shutdown, which must not fail
        signal.signal(signal.SIGTERM, lambda *_: None)
        _Server(config, notifier).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Server that notifies systemd when ready, then at intervals."""

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
            # from the thread pool that answers requests: if all of them hang, the watchdog must expire
            await to_thread.run_sync(self._notifier.beat)
            await asyncio.sleep(self._notifier.beat_s / 2)
