"""What a process that reads films serves over HTTP where it was told to: ``GET /health`` and ``GET /metrics``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from worker import health, health_http
from worker.settings import listen_address

if TYPE_CHECKING:
    from worker.meters import Meters

_LAST_PORT = 65_535


@contextlib.contextmanager
def monitored(
    listen: str | None,
    engine: Engine,
    *,
    roots: Sequence[bytes] | None,
    scan_interval_s: float,
    ports_after: int = 0,
) -> Iterator[Meters | None]:
    """Answer while the block runs.

    Args:
        listen: ``host:port``; ``None`` serves nothing and loads nothing.
        roots, scan_interval_s: as ``health.report`` takes them.
        ports_after: leave the port itself to another process, and take the first free one of so many after it.

    Yields:
        What the process is to count in, where it serves.

    Raises:
        EnvironmentFault: the address cannot be used.
    """
    if listen is None:
        yield None
        return
    from worker import figures
    from worker.meters import Meters
    from worker.metrics import Metrics

    host, port = listen_address(listen)
    first = port + 1 if ports_after else port
    others = range(first + 1, min(port + ports_after, _LAST_PORT) + 1)
    meters = Meters()
    probe = partial(health.report, engine, roots=roots, scan_interval_s=scan_interval_s)
    look = partial(figures.look, engine, roots=roots, scan_interval_s=scan_interval_s)
    with health_http.serving((host, first), probe, Metrics(meters, look, engine), other_ports=others):
        yield meters
