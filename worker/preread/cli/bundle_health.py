"""Part of the health report that needs this machine's bundles."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Engine, select

from preread.core.errors import BundleError
from preread.core.settings import Settings
from preread.db.admin_schema import Part, activation
from preread.db.engine import read
from preread.monitoring.health import Health, Level, Problem


def with_bundle_problem(settings: Settings, engine: Engine, health: Health) -> Health:
    """Add a problem to a report if no worker can start for its bundle.

    Args:
        settings: settings of this machine.
        engine: database of the report.
        health: report on the workers.

    Returns:
        The report, with a critical problem first if the bundle in use cannot be used on this machine.
    """
    silent = {"no_worker", "worker_silent"} & {problem.code for problem in health.problems}
    # the default bundle is part of the installation
    if not silent or not (settings.bundle or _was_activated(engine)):
        return health
    # loads numpy, which `preread status` does not need while a worker runs
    from preread.cli.selected_bundles import bundle_selection  # noqa: PLC0415

    try:
        bundle_selection(settings, engine).load()
    except BundleError as error:
        problem = Problem(Level.CRITICAL, error.code, f"no worker can start on this machine: {error}. {error.hint}")
        return replace(health, problems=(problem, *health.problems))
    return health


def _was_activated(engine: Engine) -> bool:
    a = activation.c
    last = select(a.bundle_id).where(a.part == Part.ACTIVE).order_by(a.id.desc()).limit(1)
    return read(engine, lambda connection: connection.execute(last).scalar()) is not None
