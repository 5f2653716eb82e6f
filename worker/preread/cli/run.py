"""``preread run``: the worker process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.admin.bundle_selection import BundleWatch
from preread.cli import purge
from preread.cli.context import open_database, read_settings
from preread.cli.invoking_user import actor
from preread.cli.messages import print_message
from preread.cli.roots import PopulationOption, RootOption, chosen
from preread.cli.selected_bundles import bundle_selection
from preread.core.settings import Settings, refuse_inside_root
from preread.core.systemd import Notifier
from preread.core.types import RootSpec
from preread.db import migrate
from preread.db.engine import sqlite_path
from preread.imaging import previews
from preread.monitoring.endpoint import monitored
from preread.review import audit_proof
from preread.runner import service
from preread.runner.loop import Environment, RunOptions


def run(
    context: typer.Context,
    root: RootOption = None,
    once: Annotated[bool, typer.Option("--once", help="process the files present, then exit")] = False,
    include_existing: Annotated[
        bool,
        typer.Option("--include-existing", help="treat files already present at first start as new, not as backlog"),
    ] = False,
    population: PopulationOption = "undeclared",
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
) -> None:
    """Watch folders, assess new images and store the results.

    SIGTERM or Ctrl-C ends it after the images that are being assessed.

    Files are only read, never changed, moved or deleted. Files that are present when a folder is first watched are its
    backlog: they are assessed after new files, and are not part of the work list. With --once a shadow bundle is not
    used.

    Exit code: 0 when stopped by a signal, or with --once when every file has an outcome; 2 settings or schema; 3 if a
    folder or the database is not available; 4 if the bundle cannot be used.
    """
    settings = read_settings(context, quiet=False, log_json=log_json)
    roots = chosen(settings, root, population)

    engine = _open_or_create(settings, roots)
    # the options have the names of the settings
    names = {field.name for field in fields(RunOptions)} - {"once", "include_existing"}
    values = {name: getattr(settings, name) for name in names}
    options = RunOptions(once=once, include_existing=include_existing, **values)
    options = replace(options, preview_dir=_preview_dir(settings, engine, roots))
    notifier = Notifier.from_environment(os.environ)
    purge.forget_again(settings, engine)
    audit_proof.accept_unproven_rows(engine, actor())  # the key is there before the first result, which it seals
    code = service.BUNDLE_CHANGED
    try:
        while code == service.BUNDLE_CHANGED:
            selection = bundle_selection(settings, engine)
            now = selection.load()
            still = BundleWatch(selection, now).is_current
            if once and now.shadow is not None:
                _say_no_shadow(now.shadow[0].label)
            shadow = None if once else now.shadow
            with monitored(
                None if once else settings.health_listen,
                engine,
                roots=[os.fsencode(os.path.abspath(spec.path)) for spec in roots],
                scan_interval_s=settings.scan_interval_s,
                hosts=settings.health_hosts,
            ) as counters:
                bundles = service.BundleChoice(now.active, shadow, still)
                environment = Environment(notifier=notifier, counters=counters)
                code = service.run_service(engine, bundles, roots, options, environment)
    finally:
        engine.dispose()
    if code:
        raise typer.Exit(code)


def _preview_dir(settings: Settings, engine: Engine, roots: Sequence[RootSpec]) -> Path | None:
    folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
    for root in roots:
        refuse_inside_root(root, folder, "folder of previews", "PREREAD_PREVIEW_DIR")
    return folder


def _open_or_create(settings: Settings, roots: Sequence[RootSpec]) -> Engine:
    """Open the database, or create the default SQLite file.

    A database that the settings name is never created: its path is more likely wrong, or its disk not mounted.
    """

    def prepare(engine: Engine) -> None:
        path = sqlite_path(engine)
        for root in roots:
            refuse_inside_root(root, path, "database", "PREREAD_DATABASE_URL")
        by_default = settings.database_url == Settings.model_fields["database_url"].default
        if by_default and path is not None and not os.path.exists(path):
            migrate.refuse_remains(engine, purge.kept_beside(settings, engine))
            migrate.upgrade_schema(engine)
            print_message(f"created the database {path}")

    return open_database(settings, prepare)


def _say_no_shadow(label: str) -> None:
    print_message(
        f"{label} does not assess these images: a shadow bundle works in `preread run` without --once, and in "
        "`preread fleet work`"
    )
