"""Monitoring endpoint of a process that reads images."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from preread.core.addresses import is_loopback, parse_listen_address
from preread.monitoring import health, http_server

if TYPE_CHECKING:
    from preread.runner.counters import Counters

_LOG = logging.getLogger(__name__)
_LAST_PORT = 65_535


@contextlib.contextmanager
def monitored(
    listen: str | None,
    engine: Engine,
    *,
    roots: Sequence[bytes] | None,
    scan_interval_s: float,
    ports_after: int = 0,
    hosts: str | None = None,
) -> Iterator[Counters | None]:
    """Serve health and metrics while the block runs.

    Args:
        listen: ``host:port``; ``None`` serves nothing and imports nothing.
        engine: database.
        roots: see ``health.report``.
        scan_interval_s: see ``health.report``.
        ports_after: leave the port itself to another process and use the first free one of this many after it.
        hosts: value of ``PREREAD_HEALTH_HOSTS``; ``None`` serves on the loopback address only, whatever ``listen`` is.

    Yields:
        Counters for the process, or ``None`` if nothing is served.

    Raises:
        EnvironmentFault: the address cannot be bound.
    """
    if listen is None:
        yield None
        return
    from preread.monitoring import database_metrics
    from preread.runner.counters import Counters

    host, port = parse_listen_address(listen)
    if hosts is None and not is_loopback(host):
        # a wrong monitoring setting must not stop the reading of images
        _LOG.error("health_kept_inside", extra={"address": f"{host}:{port}", "why": "PREREAD_HEALTH_HOSTS is not set"})
        host = "::1" if ":" in host else "127.0.0.1"
    first = port + 1 if ports_after else port
    others = range(first + 1, min(port + ports_after, _LAST_PORT) + 1)
    meters = Counters()
    probe = partial(health.report, engine, roots=roots, scan_interval_s=scan_interval_s)
    look = partial(database_metrics.read_metrics, engine, roots=roots, scan_interval_s=scan_interval_s)
    named = frozenset(name.strip().lower() for name in (hosts or "").split(",") if name.strip())
    metrics = database_metrics.MetricsPage(meters, look, engine)
    with http_server.serve((host, first), probe, metrics, other_ports=others, hosts=named):
        yield meters
