"""``preread status``: health of the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import output
from preread.cli.bundle_health import with_bundle_problem
from preread.cli.context import open_database, read_settings, watched_paths
from preread.cli.messages import print_message
from preread.core.errors import PrereadError
from preread.ledger.archives import FleetHealth
from preread.monitoring import health
from preread.monitoring.health import Health, Level, RootHealth


def status(
    context: typer.Context,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", help="a folder that should be watched; may be repeated; default: those of the settings"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Report the health of the worker.

    If neither --root nor the settings name folders, those of the workers in the database are checked. No progress for
    two scan intervals (at least ten seconds) is critical, as is a worker that is dead or never ran. For a folder that
    only a fleet processes, shards that no process takes, that stall or that failed are a warning.

    Exit code, as Nagios, Icinga and Zabbix expect: 0 ok; 1 warning; 2 critical, also if the database or the settings
    cannot be used.
    """
    health = _report(context, root)
    if json:
        output.print_json(health.to_json())
    else:
        output.print_text(_headline(health))
        for problem in health.problems:
            output.print_text(f"{problem.level.name} {problem.code}: {problem.what}")
        output.print_pairs(_pairs(health), medical=False)
    if health.level is not Level.OK:
        raise typer.Exit(int(health.level))


def _report(context: typer.Context, root: list[Path] | None) -> Health:
    try:
        settings = read_settings(context)
        engine = open_database(settings)
        try:
            roots = watched_paths(settings, root)
            found = health.report(engine, roots=roots, scan_interval_s=settings.scan_interval_s)
            return with_bundle_problem(settings, engine, found)
        finally:
            engine.dispose()
    except PrereadError as error:
        if error.hint:
            print_message(error.hint)
        return health.unavailable(error)


def _headline(health: Health) -> str:
    """Return the summary line with performance data for monitoring."""
    wrong = [problem for problem in health.problems if problem.level is not Level.OK]
    worst = [problem.what for problem in wrong if problem.level is health.level]
    more = len(wrong) - len(worst)
    text = "; ".join(worst) + (f"; and {more} warnings" if more else "") if worst else "nothing is wrong"
    figures = {state.value: float(count) for state, count in health.counts.items()}
    figures["missed_unacknowledged"] = float(health.missed)
    for name in ("unsettled_age_s", "ready_age_s", "write_age_s"):
        if (value := getattr(health, name)) is not None:
            figures[name] = value
    data = " ".join(f"{name}={value:.10g}" for name, value in figures.items())
    # a bar within the text would start the performance data
    return f"PREREAD {health.level.name} - {text.replace('|', '/')}" + (f" | {data}" if health.counts else "")


def _pairs(health: Health) -> Iterator[tuple[str, str]]:
    for worker in health.workers:
        state = "running" if worker.alive else "not running"
        if worker.alive and worker.slots:
            state += f", {worker.slots_alive} of {worker.slots} inference processes ready"
        yield f"worker {worker.worker_id}", f"{state}, last heartbeat {worker.silent_s:g} s ago"
        if worker.watcher_restarts:
            since = _age_text(worker.watcher_restart_age_s)
            yield "restarts of its file-system watcher", f"{worker.watcher_restarts}, last {since}"
    for root in health.roots:
        yield f"folder {root.path}", _root_text(root)
    for state, count in health.counts.items():
        if count:
            yield f"files {state.value}", str(count)
    for code, count in health.quarantined.items():
        yield f"quarantined: {code}", str(count)
    for name, value in (
        ("missed, not acknowledged", health.missed or None),
        ("not readable yet", health.locked or None),
        ("oldest not complete", _age_text(health.unsettled_age_s)),
        ("oldest ready", _age_text(health.ready_age_s)),
        ("last started or finished", _age_text(health.progress_age_s)),
    ):
        if value is not None:
            yield name, str(value)


def _root_text(root: RootHealth) -> str:
    if root.fleet is not None:
        return _fleet_text(root.fleet)
    parts = ["watched" if root.watched else "not watched"]
    if root.fault is not None:
        parts.append(f"{root.fault_code}: {root.fault}")
    if root.scan_age_s is None:
        parts.append("no complete scan yet")
    else:
        parts.append(f"last complete scan {root.scan_age_s:g} s ago, {root.files} files in {root.scan_s or 0:.1f} s")
    return "; ".join(parts)


def _fleet_text(fleet: FleetHealth) -> str:
    shards = sum(fleet.shards.values())
    if not shards:
        return "no worker ever watched it, and no shards are queued"
    stalled = f", {fleet.stalled} of them stalled" if fleet.stalled else ""
    in_progress = f"{fleet.shards.get('doing', 0)} in progress{stalled}"
    parts = [f"processed by the fleet: {shards - fleet.open_shards} of {shards} shards done, {in_progress}"]
    parts.append(f"{fleet.processes} processes running")
    if fleet.progress_age_s is not None:
        parts.append(f"last progress {fleet.progress_age_s:g} s ago")
    return "; ".join(parts)


def _age_text(value: float | None) -> str | None:
    return None if value is None else f"{value:g} s ago"
