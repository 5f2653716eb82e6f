"""``preread backfill`` and ``preread fleet``: an archive as shards, done by any number of processes and machines."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine, select

from preread.admin import bundle_registry
from preread.cli import context as door
from preread.cli import in_use, output
from preread.cli.global_options import global_options
from preread.cli.roots import PopulationName, PopulationOption
from preread.cli.selection_options import ledger_of
from preread.core.errors import BundleError, BundleMissing, UsageError
from preread.core.settings import Settings, refuse_overlapping
from preread.core.text.wording import format_duration
from preread.core.types import Population, RootSpec
from preread.db import schema
from preread.db.engine import read
from preread.fleet import partition
from preread.fleet.queue import FleetQueue
from preread.fleet.shard_runner import ShardJob
from preread.fleet.supervisor import MOST_PROCESSES, end_with, supervise
from preread.imaging import previews
from preread.ledger import archives as batches
from preread.ledger.archives import Batch
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.monitoring.endpoint import monitored
from preread.runner.loop import Environment, RunOptions
from preread.share.scanner import FileSystem, Listing, check_root

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
        typer.Option(help="read again with this bundle what has a result of another one; default: only what has none"),
    ] = None,
    population: PopulationOption = "undeclared",
    shard_files: Annotated[int, typer.Option(min=1, max=10_000, help="entries a shard")] = _SHARD_FILES,
    cancel: Annotated[bool, typer.Option("--cancel", help="take back the shards that wait, and end")] = False,
) -> None:
    """Queue an archive for processing by a fleet.

    Splits the archive into shards, which `preread fleet work` processes on any number of machines.

    Needs Postgres and the extra `fleet`. The ledger says what is owed, so the command may be broken off, repeated, and
    run beside a worker that watches the same folder: nothing is read twice with one bundle, and films that arrive today
    go before the archive. With --bundle the new answers take the place of the older ones, which stay in the history;
    every result names its bundle.

    Exit code: 0 done; 1 when folders could not be listed, whose films are left out; 2 SQLite, settings or schema; 3 the
    folder or the database is away; 4 the bundle may not be used.
    """
    settings = door.read_settings(context)
    engine = door.open_database(settings)
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
    if name is None:
        loaded = in_use.load(settings, engine).bundle
    else:
        loaded = bundles.load(bundles.resolve(name, in_use.added_folder(settings)))
    system, listing = FileSystem(), Listing()
    check_root(system, path)
    queue.install()
    ledger = ledger_of(engine)
    ledger.register_bundle(**loaded.registration)
    root_id = ledger.register_root(path, population=spec.population, path_pattern=spec.path_pattern)
    if cancel:
        taken = queue.forget(root_id, loaded.digest, waiting=True)
        output.say(f"{taken} shards taken back; those in hand are finished")
        return True
    queue.forget(root_id, loaded.digest)
    cut = partition.cut(system, path, shard_files, listing, batches.order_key(engine))
    count, waited, files = queue.submit(ShardJob(root_id, loaded.digest, name is not None, shard) for shard in cut)
    handed = f"{files} files in {count} shards, to be read with {loaded.label}"
    output.say(f"{handed}; {waited} of the shards waited already" if waited else handed)
    output.say("`preread fleet work` on any machine reads them; `preread fleet status` says how far they are")
    if (fault := listing.fault()) is not None:
        output.say(f"{fault} [{fault.code}]: what is in them is left out")
    return fault is None


def _spec(settings: Settings, engine: Engine, root: Path, population: PopulationName) -> RootSpec:
    """Return the root of the settings that this folder is, else a new one, which may touch none that is known."""
    path = os.path.abspath(root)
    for spec in settings.roots:
        if os.path.abspath(spec.path) == path:
            if population != "undeclared":
                raise UsageError("the settings declare what is in this folder: leave --population out")
            return spec
    known = [RootSpec(Path(os.fsdecode(other))) for other in _known_roots(engine)]
    others = [spec for spec in (*settings.roots, *known) if os.path.abspath(spec.path) != path]
    for other in others:
        refuse_overlapping((other, RootSpec(root)))
    return RootSpec(Path(path), Population(population))


def _known_roots(engine: Engine) -> list[bytes]:
    return read(engine, lambda connection: list(connection.execute(select(schema.root.c.path)).scalars()))


@app.command("work")
def work(
    context: typer.Context,
    processes: Annotated[
        int, typer.Option(min=1, max=MOST_PROCESSES, help="processes on this machine, each with its slots")
    ] = 1,
    nice: Annotated[int, typer.Option(min=0, max=19, help="how far live films go before these (as nice does)")] = _NICE,
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Process queued shards of archives.

    SIGTERM or Ctrl-C ends it after the images that are being assessed.

    Each process takes one shard at a time, for any bundle that is installed here, and reads it with PREREAD_SLOTS
    slots. The folders must be mounted at the paths that `preread backfill` was given. What a process leaves behind when
    it is killed, another one takes up. Where PREREAD_HEALTH_LISTEN names an address, each process answers GET /health
    and GET /metrics on the first free port after that one, which is left to `preread run`. A bundle in the shadow that
    is installed here assesses each shard's films after the shard's own bundle.

    Exit code: 0 when it was told to stop; 2 SQLite, settings or schema; 3 a folder or the database is away, or the
    processes keep dying; 4 no bundle may be used.
    """
    chosen = global_options(context).with_log_json(log_json)
    settings = door.read_settings(context, quiet=False, log_json=log_json)
    if processes > 1:
        command = [sys.executable, "-P", "-m", "preread", *chosen.to_arguments(), "fleet", "work", "--nice", str(nice)]
        code = supervise(command, processes)
    else:
        if parent is not None:
            end_with(parent)
        os.nice(nice)
        code = _work(settings)
    if code:
        raise typer.Exit(code)


def _work(settings: Settings) -> int:
    engine = door.open_database(settings)
    try:
        FleetQueue(engine)  # reports a missing extra before a module that needs it is imported
        from preread.fleet import worker

        names = {field.name for field in fields(RunOptions)} - {"once", "include_existing"}
        options = RunOptions(**{name: getattr(settings, name) for name in names})
        options = replace(options, preview_dir=previews.preview_folder(settings.preview_dir, None))
        with monitored(
            settings.health_listen,
            engine,
            roots=None,
            scan_interval_s=settings.scan_interval_s,
            ports_after=MOST_PROCESSES,
            hosts=settings.health_hosts,
        ) as counters:
            return worker.work(
                engine, _installed(settings, engine), options, environment=Environment(counters=counters)
            )
    finally:
        engine.dispose()


def _installed(settings: Settings, engine: Engine) -> list[Bundle]:
    """Load every bundle of this machine that may be used."""
    now = bundle_registry.current_selection(engine)
    own = [Path(settings.bundle)] if settings.bundle is not None and Path(settings.bundle).is_dir() else []
    found = []
    for path in (*bundles.all_installed(in_use.added_folder(settings)), *own):
        try:
            loaded = bundles.load(path)
            now.refuse_withdrawn(loaded.digest, loaded.label)
        except BundleError as error:
            output.say(f"{path} is left out: {error} [{error.code}]")
        else:
            found.append(loaded)
    if not found:
        raise BundleMissing("no bundle is installed that may be used")
    return found


@app.command("status")
def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record an archive")] = False,
) -> None:
    """Show the progress of each archive.

    Also shows its rate, and the time left at that rate.

    Exit code: 0; 1 when shards failed, or when some wait and no process does them.
    """
    with door.database(context) as engine:
        queue = FleetQueue(engine)
        batches, processes = queue.batches(), queue.processes()
    wrong = any(batch.shards.get("failed") or (batch.shards.get("todo") and not processes) for batch in batches)
    if json:
        for batch in batches:
            output.print_json({**batch.to_json(), "processes": processes})
    elif not batches:
        output.say("no archive was handed to the fleet: `preread backfill ROOT` does it")
    else:
        output.print_table(
            ("archive", "bundle", "films done", "left", "shards in hand", "failed", "films/s", "time left"),
            [_row(batch) for batch in batches],
        )
        output.say(f"{processes} processes are at work")
        if any(batch.shards.get("failed") for batch in batches):
            output.say(
                "failed shards: their log lines (shard_failed) say why; `preread backfill` hands them over again"
            )
    if wrong:
        raise typer.Exit(1)


def _row(batch: Batch) -> tuple[str, ...]:
    left = sum(batch.films.get(status, 0) for status in ("todo", "doing"))
    in_hand = str(batch.shards.get("doing", 0)) + (f" ({batch.stalled} stalled)" if batch.stalled else "")
    return (
        batch.root,
        batch.bundle,
        str(batch.films.get("succeeded", 0)),
        str(left),
        in_hand,
        str(batch.shards.get("failed", 0)),
        "" if batch.films_s is None else f"{batch.films_s:g}",
        "" if batch.left_s is None else format_duration(batch.left_s),
    )
