"""The bundle selection of the settings, for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from preread.admin.bundle_selection import BundleSelection
from preread.cli.context import open_database
from preread.core.errors import BundleError, PrereadError
from preread.core.settings import Settings
from preread.db.engine import open_engine, sqlite_path
from preread.model import bundles
from preread.model.bundles import Bundle


def added_bundle_folder(settings: Settings) -> Path | None:
    """Return the folder of added bundles, or ``None``.

    There is none if none is set and the database is not a file.
    """
    try:
        engine = open_engine(settings.database_url)
    except PrereadError:  # a command that needs no database does not fail for it
        return bundles.locate_added_bundles(settings.bundle_dir, None)
    try:
        return bundles.locate_added_bundles(settings.bundle_dir, sqlite_path(engine))
    finally:
        engine.dispose()


def bundle_selection(settings: Settings, engine: Engine | None = None) -> BundleSelection:
    """Return the bundle selection of the settings.

    Args:
        settings: name the bundle and the folder of added bundles.
        engine: database; if ``None``, its choices do not count.
    """
    return BundleSelection(engine, configured=settings.bundle, added_folder=added_bundle_folder(settings))


@contextmanager
def selection_if_database(settings: Settings) -> Iterator[BundleSelection]:
    """Yield a bundle selection with the database, if that can be used."""
    try:
        engine = open_database(settings)
    except PrereadError:
        yield bundle_selection(settings)
        return
    try:
        yield bundle_selection(settings, engine)
    finally:
        engine.dispose()


def load_bundle_in_use(settings: Settings) -> Bundle:
    """Load the bundle in use.

    If the database cannot be used, this is the configured or the default one.

    Raises:
        BundleError: the bundle is missing, damaged or withdrawn.
    """
    try:
        with selection_if_database(settings) as selection:
            return selection.load().active
    except BundleError:
        raise
    except PrereadError:  # the database went away in the meantime
        return bundle_selection(settings).load_named(settings.bundle)
