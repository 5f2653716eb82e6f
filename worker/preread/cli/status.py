"""``preread status``: does the worker do what it should, for people and for monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import context as door
from preread.cli import in_use, output
from preread.core.errors import PrereadError
from preread.ledger.archives import FleetHealth
from preread.monitoring import health
from preread.monitoring.health import Health, Level, RootHealth


def status(
    context: typer.Context,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", help="a folder that should be watched, may be repeated; default: those of the settings"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON record")] = False,
) -> None:
    """Report the health of the worker.

    Where neither --root nor the settings name folders, those of the workers in the database count. What does not move
    for two scan intervals (ten seconds at least) is critical; a worker that is dead or never ran as well. A folder that
    only a fleet reads is judged by its fleet: shards that wait for nobody, stand still or failed are a warning.

    Exit code, as Nagios, Icinga and Zabbix expect: 0 ok; 1 warning; 2 critical, also when the database or the settings
    cannot be used.
    """
    health = _look(context, root)
    if json:
        output.print_json(health.to_json())
    else:
        output.print_text(_headline(health))
        for problem in health.problems:
            output.print_text(f"{problem.level.name} {problem.code}: {problem.what}")
        output.print_pairs(_pairs(health), medical=False)
    if health.level is not Level.OK:
        raise typer.Exit(int(health.level))


def _look(context: typer.Context, root: list[Path] | None) -> Health:
    try:
        settings = door.read_settings(context)
        engine = door.open_database(settings)
        try:
            roots = door.root_paths(settings, root)
            found = health.report(engine, roots=roots, scan_interval_s=settings.scan_interval_s)
            return in_use.judged(settings, engine, found)
        finally:
            engine.dispose()
    except PrereadError as error:
        if error.hint:
            output.say(error.hint)
        return health.unavailable(error)


def _headline(health: Health) -> str:
    """Return the first line, which is all that most monitoring shows, with figures behind the bar."""
    wrong = [problem for problem in health.problems if problem.level is not Level.OK]
    worst = [problem.what for problem in wrong if problem.level is health.level]
    more = len(wrong) - len(worst)
    said = "; ".join(worst) + (f"; and {more} warnings" if more else "") if worst else "nothing is wrong"
    figures = {state.value: float(count) for state, count in health.counts.items()}
    figures["missed_unacknowledged"] = float(health.missed)
    for name in ("unsettled_age_s", "ready_age_s", "write_age_s"):
        if (value := getattr(health, name)) is not None:
            figures[name] = value
    data = " ".join(f"{name}={value:.10g}" for name, value in figures.items())
    # a bar in the words would end them
    return f"PREREAD {health.level.name} - {said.replace('|', '/')}" + (f" | {data}" if health.counts else "")


def _pairs(health: Health) -> Iterator[tuple[str, str]]:
    for worker in health.workers:
        slots = f", {worker.slots_alive} of {worker.slots} slots ready" if worker.alive and worker.slots else ""
        state = "runs" if worker.alive else "does not run"
        yield f"worker {worker.worker_id}", f"{state}{slots}, wrote {worker.silent_s:g} s ago"
        if worker.watcher_restarts:
            since = _seconds(worker.watcher_restart_age_s)
            yield "its watching for events began anew", f"{worker.watcher_restarts} times, last {since}"
    for root in health.roots:
        yield f"folder {root.path}", _say_root(root)
    for state, count in health.counts.items():
        if count:
            yield f"files {state.value}", str(count)
    for code, count in health.quarantined.items():
        yield f"quarantined: {code}", str(count)
    for name, value in (
        ("missed, not acknowledged", health.missed or None),
        ("waiting because they cannot be read", health.locked or None),
        ("oldest unsettled", _seconds(health.unsettled_age_s)),
        ("oldest ready", _seconds(health.ready_age_s)),
        ("last claimed or ended", _seconds(health.progress_age_s)),
    ):
        if value is not None:
            yield name, str(value)


def _say_root(root: RootHealth) -> str:
    if root.fleet is not None:
        return _say_fleet(root.fleet)
    parts = ["watched" if root.watched else "not watched"]
    if root.fault is not None:
        parts.append(f"{root.fault_code}: {root.fault}")
    if root.scan_age_s is None:
        parts.append("no complete scan yet")
    else:
        parts.append(f"last complete scan {root.scan_age_s:g} s ago, {root.files} files in {root.scan_s or 0:.1f} s")
    return "; ".join(parts)


def _say_fleet(fleet: FleetHealth) -> str:
    shards = sum(fleet.shards.values())
    if not shards:
        return "no worker ever watched it, and the fleet has nothing to do there"
    stalled = f", {fleet.stalled} of them stalled" if fleet.stalled else ""
    in_hand = f"{fleet.shards.get('doing', 0)} in hand{stalled}"
    parts = [f"read by the fleet: {shards - fleet.open} of {shards} shards done, {in_hand}"]
    parts.append(f"{fleet.processes} processes are at work")
    if fleet.progress_age_s is not None:
        parts.append(f"last progress {fleet.progress_age_s:g} s ago")
    return "; ".join(parts)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:g} s ago"
