"""What a process that reads films serves over HTTP where it was told to: ``GET /health`` and ``GET /metrics``."""

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
    from preread.runner.counters import Meters

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
) -> Iterator[Meters | None]:
    """Answer while the block runs.

    Args:
        listen: ``host:port``; ``None`` serves nothing and loads nothing.
        roots, scan_interval_s: as ``health.report`` takes them.
        ports_after: leave the port itself to another process, and take the first free one of so many after it.

        hosts: as ``PREREAD_HEALTH_HOSTS``; ``None`` serves on this machine alone, whatever ``listen`` says.

    Yields:
        What the process is to count in, where it serves.

    Raises:
        EnvironmentFault: the address cannot be used.
    """
    if listen is None:
        yield None
        return
    from preread.monitoring import database_metrics
    from preread.monitoring.metrics import Metrics
    from preread.runner.counters import Meters

    host, port = parse_listen_address(listen)
    if hosts is None and not is_loopback(host):
        # films are to be read whatever monitoring asks for, so this is no reason to end
        _LOG.error("health_kept_inside", extra={"address": f"{host}:{port}", "why": "PREREAD_HEALTH_HOSTS is not set"})
        host = "::1" if ":" in host else "127.0.0.1"
    first = port + 1 if ports_after else port
    others = range(first + 1, min(port + ports_after, _LAST_PORT) + 1)
    meters = Meters()
    probe = partial(health.report, engine, roots=roots, scan_interval_s=scan_interval_s)
    look = partial(database_metrics.look, engine, roots=roots, scan_interval_s=scan_interval_s)
    named = frozenset(name.strip().lower() for name in (hosts or "").split(",") if name.strip())
    metrics = Metrics(meters, look, engine)
    with http_server.serving((host, first), probe, metrics, other_ports=others, hosts=named):
        yield meters
