"""``preread run``: the worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from preread.cli import context as door
from preread.cli import in_use, output
from preread.cli import purge as forgetting
from preread.cli.invoking_user import actor
from preread.cli.roots import PopulationOption, RootOption, chosen
from preread.core.settings import Settings, refuse_within
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
    once: Annotated[bool, typer.Option("--once", help="handle what is there, settled, and end")] = False,
    include_existing: Annotated[
        bool,
        typer.Option(
            "--include-existing", help="a folder's films from before its first start are new as well, and no backlog"
        ),
    ] = False,
    population: PopulationOption = "undeclared",
    log_json: Annotated[
        bool | None, typer.Option("--log-json/--log-text", help="log as JSON Lines; default: unless at a terminal")
    ] = None,
) -> None:
    """Watch folders, assess new images and store the results.

    SIGTERM or Ctrl-C ends it after the images that are being assessed.

    Files are only ever read, never changed, moved or deleted. What lies in a folder when it is first watched is counted
    and taken in as backlog: assessed after the films that come later, and outside the list of unread ones. With --once
    a bundle in the shadow assesses nothing.

    Exit code: 0 when it was told to stop, or with --once when every file has its outcome; 2 settings or schema; 3 a
    share or the database is away; 4 the bundle may not be used.
    """
    settings = door.read_settings(context, quiet=False, log_json=log_json)
    roots = chosen(settings, root, population)

    engine = _open_or_create(settings, roots)
    # the options have the names of the settings
    names = {field.name for field in fields(RunOptions)} - {"once", "include_existing"}
    values = {name: getattr(settings, name) for name in names}
    options = RunOptions(once=once, include_existing=include_existing, **values)
    options = replace(options, preview_dir=_preview_dir(settings, engine, roots))
    notifier = Notifier.from_environment(os.environ)
    forgetting.forget_again(settings, engine)
    audit_proof.accept(engine, actor())  # the key is there before the first result, which it seals
    code = service.BUNDLE_CHANGED
    try:
        while code == service.BUNDLE_CHANGED:
            now = in_use.load(settings, engine)
            still = in_use.Watch(settings, engine, now).still
            if once and now.shadow is not None:
                in_use.say_no_shadow(now.shadow[0].label)
            shadow = None if once else now.shadow
            with monitored(
                None if once else settings.health_listen,
                engine,
                roots=[os.fsencode(os.path.abspath(spec.path)) for spec in roots],
                scan_interval_s=settings.scan_interval_s,
                hosts=settings.health_hosts,
            ) as counters:
                bundles = service.BundleChoice(now.bundle, shadow, still)
                environment = Environment(notifier=notifier, counters=counters)
                code = service.run(engine, bundles, roots, options, environment)
    finally:
        engine.dispose()
    if code:
        raise typer.Exit(code)


def _preview_dir(settings: Settings, engine: Engine, roots: Sequence[RootSpec]) -> Path | None:
    folder = previews.preview_folder(settings.preview_dir, sqlite_path(engine))
    for root in roots:
        refuse_within(root, folder, "folder of previews", "PREREAD_PREVIEW_DIR")
    return folder


def _open_or_create(settings: Settings, roots: Sequence[RootSpec]) -> Engine:
    """Open the database; a new installation with the default database gets its file made.

    Only then: a database that was named and is not there is more likely mistyped or not mounted than new.
    """

    def prepare(engine: Engine) -> None:
        path = sqlite_path(engine)
        for root in roots:
            refuse_within(root, path, "database", "PREREAD_DATABASE_URL")
        by_default = settings.database_url == Settings.model_fields["database_url"].default
        if by_default and path is not None and not os.path.exists(path):
            migrate.check_remains(engine, forgetting.kept_beside(settings, engine))
            migrate.upgrade(engine)
            output.say(f"made the database {path}")

    return door.open_database(settings, prepare)
