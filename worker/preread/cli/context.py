"""Settings and database of a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from sqlalchemy import Engine, make_url

from preread.cli.global_options import global_options
from preread.core import log
from preread.core.errors import PrereadError
from preread.core.settings import Settings, load_settings
from preread.db import migrate
from preread.db.engine import open_engine


def read_settings(context: typer.Context, *, quiet: bool = True, log_json: bool | None = None) -> Settings:
    """Read the settings and configure logging.

    Args:
        context: context of the command.
        quiet: log warnings and errors only, for commands that print a result.
        log_json: value of the command's own ``--log-json``; ``None`` if the command has none or it is not given.

    Raises:
        SettingsError: a setting is invalid.
    """
    options = global_options(context).with_log_json(log_json)
    settings = load_settings(options.config)
    log.configure_logging(
        level=options.log_level or settings.log_level.value,
        json_lines=settings.log_json if options.log_json is None else options.log_json,
        quiet=quiet and options.log_level is None,
    )
    return settings


def open_database(settings: Settings, prepare: Callable[[Engine], None] = lambda _: None) -> Engine:
    """Open the database of the settings and check its schema.

    Args:
        settings: name the database and the key file of the audit trail.
        prepare: called with the engine before the schema is checked.

    Raises:
        SchemaOutdated, SchemaTooNew, DatabaseUnsuitable, DatabaseAway: the database cannot be used.
    """
    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        prepare(engine)
        migrate.check_schema(engine)
    except PrereadError:
        engine.dispose()
        raise
    return engine


@contextmanager
def command_database(context: typer.Context) -> Iterator[Engine]:
    """Open the database of the settings for a block; see ``open_database``."""
    engine = open_database(read_settings(context))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def unchecked_database(context: typer.Context) -> Iterator[tuple[Engine, str]]:
    """Open the database of the settings without a check of its schema.

    Yields:
        The engine, and the database URL without its password.
    """
    settings = read_settings(context)
    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        yield engine, show_url(settings.database_url)
    finally:
        engine.dispose()


def show_url(database_url: str) -> str:
    """Return a database URL with the password hidden."""
    return make_url(database_url).render_as_string(hide_password=True)


def watched_paths(settings: Settings, named: Sequence[Path] | None = None) -> tuple[bytes, ...] | None:
    """Return the absolute paths of the folders of a command.

    Args:
        settings: settings that name the watched folders.
        named: folders of the command line; they replace those of the settings.

    Returns:
        The paths as bytes, or ``None`` if neither names a folder.
    """
    paths = named or [spec.path for spec in settings.roots]
    return tuple(os.fsencode(os.path.abspath(path)) for path in paths) or None
