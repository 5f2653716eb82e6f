"""``preread backfill`` and ``preread fleet``: archives in shards."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine, select

from preread.cli import output
from preread.cli.context import command_database, open_database, read_settings
from preread.cli.global_options import global_options
from preread.cli.messages import print_message
from preread.cli.roots import PopulationName, PopulationOption
from preread.cli.selected_bundles import bundle_selection
from preread.cli.selection_options import operator_ledger
from preread.core.errors import BundleMissing, UsageError
from preread.core.settings import Settings, refuse_overlapping_roots
from preread.core.text.wording import format_duration
from preread.core.types import Population, RootSpec
from preread.db import schema
from preread.db.engine import read
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.fleet.supervisor import MOST_PROCESSES, end_with_parent, supervise_processes
from preread.imaging import previews
from preread.ledger.archives import ArchiveProgress, shard_order_key
from preread.model.bundles import Bundle
from preread.monitoring.endpoint import monitored
from preread.runner.loop import Environment, RunOptions
from preread.share.scanner import FileSystem, ScanCounts, check_root_readable

app = typer.Typer(help="Process archives with several processes and machines.", no_args_is_help=True)
_SHARD_FILES = 1000
_NICE = 10


def backfill(
    context: typer.Context,
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="the archive's folder, at the same path on each machine")
    ],
    bundle: Annotated[
        str | None,
        typer.Option(help="assess images again that have a result of another bundle; default: only those without one"),
    ] = None,
    population: PopulationOption = "undeclared",
    shard_files: Annotated[int, typer.Option(min=1, max=10_000, help="directory entries per shard")] = _SHARD_FILES,
    cancel: Annotated[bool, typer.Option("--cancel", help="remove the queued shards, and exit")] = False,
) -> None:
    """Queue an archive for processing by a fleet.

    Splits the archive into shards, which `preread fleet work` processes on any number of machines.

    Needs Postgres and the extra `fleet`. The command can be interrupted, repeated, and run beside a worker that watches
    the same folder: no image is assessed twice with one bundle, and new images come before the archive. With --bundle
    the new results replace the older ones, which stay in the history; every result names its bundle.

    Exit code: 0 success; 1 if folders could not be listed, whose files are left out; 2 SQLite, settings or schema; 3 if
    the folder or the database is not available; 4 if the bundle cannot be used.
    """
    settings = read_settings(context)
    engine = open_database(settings)
    try:
        complete = _backfill(settings, engine, _spec(settings, engine, root, population), bundle, shard_files, cancel)
    finally:
        engine.dispose()
    if not complete:
        raise typer.Exit(1)


def _backfill(
    settings: Settings, engine: Engine, spec: RootSpec, name: str | None, shard_files: int, cancel: bool
) -> bool:
    queue = FleetQueue(engine)
    path = os.fsencode(os.path.abspath(spec.path))
    selection = bundle_selection(settings, engine)
    loaded = selection.load().active if name is None else selection.load_named(name)
    system, listing = FileSystem(), ScanCounts()
    check_root_readable(system, path)
    queue.install()
    ledger = operator_ledger(engine)
    ledger.register_bundle(**loaded.registration)
    root_id = ledger.register_root(path, population=spec.population, path_pattern=spec.path_pattern)
    if cancel:
        taken = queue.forget(root_id, loaded.digest, waiting=True)
        print_message(f"{taken} shards removed; those that are being processed are finished")
        return True
    queue.forget(root_id, loaded.digest)
    shards = partition.cut_shards(system, path, shard_files, listing, shard_order_key(engine))
    count, waiting, files = queue.submit(ShardJob(root_id, loaded.digest, name is not None, shard) for shard in shards)
    queued = f"{files} files queued in {count} shards, to be assessed with {loaded.label}"
    print_message(f"{queued}; {waiting} of the shards were queued already" if waiting else queued)
    print_message("`preread fleet work` on any machine processes them; `preread fleet status` shows the progress")
    if (fault := listing.build_error()) is not None:
        print_message(f"{fault} [{fault.code}]: their files are left out")
    return fault is None


def _spec(settings: Settings, engine: Engine, root: Path, population: PopulationName) -> RootSpec:
    """Return the watched folder with this path, or a new one.

    Raises:
        UsageError: a population is given for a folder of the settings.
        SettingsError: the folder overlaps a watched one.
    """
    path = os.path.abspath(root)
    for spec in settings.roots:
        if os.path.abspath(spec.path) == path:
            if population != "undeclared":
                raise UsageError("the settings declare the population of this folder: omit --population")
            return spec
    known = [RootSpec(Path(os.fsdecode(other))) for other in _known_roots(engine)]
    others = [spec for spec in (*settings.roots, *known) if os.path.abspath(spec.path) != path]
    for other in others:
        refuse_overlapping_roots((other, RootSpec(root)))
    return RootSpec(Path(path), Population(population))


def _known_roots(engine: Engine) -> list[bytes]:
    return read(engine, lambda connection: list(connection.execute(select(schema.root.c.path)).scalars()))


@app.command("work")
def work(
    context: typer.Context,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_PROCESSES,
            help="processes on this machine, each with PREREAD_SLOTS inference processes",
        ),
    ] = 1,
    nice: Annotated[int, typer.Option(min=0, max=19, help="niceness, so that live images go first")] = _NICE,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Process queued shards of archives.

    SIGTERM or Ctrl-C ends it after the images that are being assessed.

    Each process takes one shard at a time, for any bundle that is installed here, and assesses its images with
    PREREAD_SLOTS inference processes. The folders must be mounted at the paths that `preread backfill` was given. Work
    of a killed process is taken over by another one. If PREREAD_HEALTH_LISTEN is set, each process serves GET /health
    and GET /metrics on the first free port after that one, which is left to `preread run`. A shadow bundle that is
    installed here assesses each shard's images after the shard's own bundle.

    Exit code: 0 when stopped by a signal; 2 SQLite, settings or schema; 3 if a folder or the database is not available,
    or the processes keep crashing; 4 if no bundle can be used.
    """
    chosen = global_options(context).with_log_json(log_json)
    settings = read_settings(context, quiet=False, log_json=log_json)
    if processes > 1:
        command = [sys.executable, "-P", "-m", "preread", *chosen.to_arguments(), "fleet", "work", "--nice", str(nice)]
        code = supervise_processes(command, processes)
    else:
        if parent is not None:
            end_with_parent(parent)
        os.nice(nice)
        code = _work(settings)
    if code:
        raise typer.Exit(code)


def _work(settings: Settings) -> int:
    engine = open_database(settings)
    try:
        FleetQueue(engine)  # reports a missing extra before a module that needs it is imported
        from preread.fleet import worker  # noqa: PLC0415

        names = {field.name for field in fields(RunOptions)} - {"once", "include_existing"}
        options = RunOptions(**{name: getattr(settings, name) for name in names})
        options = replace(options, preview_dir=previews.locate_preview_folder(settings.preview_dir, None))
        with monitored(
            settings.health_listen,
            engine,
            roots=None,
            scan_interval_s=settings.scan_interval_s,
            ports_after=MOST_PROCESSES,
            hosts=settings.health_hosts,
        ) as counters:
            return worker.run_fleet_process(
                engine, _installed(settings, engine), options, environment=Environment(counters=counters)
            )
    finally:
        engine.dispose()


def _installed(settings: Settings, engine: Engine) -> list[Bundle]:
    """Load every bundle of this machine that can be used.

    Raises:
        BundleMissing: none may be used.
    """
    usable, unusable = bundle_selection(settings, engine).load_all_usable()
    for path, error in unusable:
        print_message(f"{path} is left out: {error} [{error.code}]")
    if not usable:
        raise BundleMissing("no installed bundle can be used: see `preread bundle list`")
    return usable


@app.command("status")
def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per archive")] = False,
) -> None:
    """Show the progress of each archive.

    Also shows its rate, and the time left at that rate.

    Exit code: 0; 1 if shards failed, or if some wait and no process is running.
    """
    with command_database(context) as engine:
        queue = FleetQueue(engine)
        batches, processes = queue.batches(), queue.processes()
    wrong = any(batch.shards.get("failed") or (batch.shards.get("todo") and not processes) for batch in batches)
    if json:
        for batch in batches:
            output.print_json({**batch.to_json(), "processes": processes})
    elif not batches:
        print_message("no archive is queued: use `preread backfill ROOT`")
    else:
        output.print_table(
            ("archive", "bundle", "files done", "left", "shards in progress", "failed", "files/s", "time left"),
            [_row(batch) for batch in batches],
        )
        print_message(f"{processes} processes are running")
        if any(batch.shards.get("failed") for batch in batches):
            print_message("failed shards: see their log lines (shard_failed); `preread backfill` queues them again")
    if wrong:
        raise typer.Exit(1)


def _row(batch: ArchiveProgress) -> tuple[str, ...]:
    left = sum(batch.files.get(status, 0) for status in ("todo", "doing"))
    in_progress = str(batch.shards.get("doing", 0)) + (f" ({batch.stalled} stalled)" if batch.stalled else "")
    return (
        batch.root,
        batch.bundle,
        str(batch.files.get("succeeded", 0)),
        str(left),
        in_progress,
        str(batch.shards.get("failed", 0)),
        "" if batch.files_per_s is None else f"{batch.files_per_s:g}",
        "" if batch.left_s is None else format_duration(batch.left_s),
    )
