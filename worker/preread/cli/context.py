"""What every command shares: its settings, its log, its database and its classifier, each made when asked for."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from preread.core.settings import Settings
    from preread.model.bundles import Bundle
    from preread.model.classifier import Classifier


@dataclass(frozen=True, slots=True)
class Door:
    """The options before the command's name.

    Attributes:
        config: the file of settings, ``None`` for the usual places.
        log_level: wins over the settings' unless ``None``.
        log_json: the same.
    """

    config: Path | None = None
    log_level: str | None = None
    log_json: bool | None = None

    def with_log(self, log_level: str | None, log_json: bool | None) -> Door:
        """Let options behind the command's name win."""
        return replace(self, log_level=log_level or self.log_level, log_json=_first(log_json, self.log_json))

    def options(self) -> list[str]:
        """Return these options as words, for another process of this program."""
        words = [] if self.config is None else ["--config", str(self.config)]
        words += [] if self.log_level is None else ["--log-level", self.log_level]
        return words + ([] if self.log_json is None else ["--log-json" if self.log_json else "--log-text"])

    def settings(self, *, quiet: bool = True) -> Settings:
        """Read the settings and set the log up.

        Args:
            quiet: log warnings only, for commands that print their answer.

        Raises:
            SettingsError: a setting cannot be meant.
        """
        from preread.core import log
        from preread.core.settings import load

        settings = load(self.config)
        log.set_up(
            level=self.log_level or settings.log_level.value,
            json_lines=_first(self.log_json, settings.log_json),
            quiet=quiet and self.log_level is None,
        )
        return settings


def of(context: typer.Context) -> Door:
    """Return the door that this command came through."""
    door = context.find_object(Door)
    return door if door is not None else Door()


def open_database(settings: Settings, prepare: Callable[[Engine], None] = lambda _: None) -> Engine:
    """Open the database and make sure that this version can use it.

    Args:
        prepare: what to do before the schema is looked at.

    Raises:
        SchemaOutdated, SchemaTooNew, DatabaseUnsuitable, DatabaseAway: it cannot be used.
    """
    from preread.core.errors import PrereadError
    from preread.db import migrate
    from preread.db.engine import open_engine

    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        prepare(engine)
        migrate.check_schema(engine)
    except PrereadError:
        engine.dispose()
        raise
    return engine


@contextmanager
def opened(context: typer.Context) -> Iterator[tuple[Engine, str]]:
    """Open the database of the settings, whatever its schema; yield its URL as well, without the password."""
    settings = of(context).settings()
    from preread.db.engine import open_engine

    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        yield engine, show_url(settings.database_url)
    finally:
        engine.dispose()


def show_url(database_url: str) -> str:
    """Return a database URL without its password."""
    from sqlalchemy import make_url

    return make_url(database_url).render_as_string(hide_password=True)


@contextmanager
def database(context: typer.Context) -> Iterator[Engine]:
    """Open the database of the settings for as long as a command needs it; see ``open_database``."""
    engine = open_database(of(context).settings())
    try:
        yield engine
    finally:
        engine.dispose()


def load_bundle(bundle: str | None) -> Bundle:
    """Load a bundle whose network runs elsewhere: in inference processes, which look whether it answers as it should.

    Raises:
        BundleError: it is missing or damaged.
    """
    from preread.model import bundles

    return bundles.load(bundles.resolve(bundle))


def load_classifier(bundle: str | None) -> Classifier:
    """Load a bundle that gives its golden results on this machine; see ``load_checked``."""
    return load_checked(bundle)[0]


def load_checked(bundle: str | None) -> tuple[Classifier, float]:
    """Load a bundle, repeat its golden vectors, and return the largest difference in logit too.

    Raises:
        BundleError: it is missing, damaged, or gives other results on this machine.
    """
    from preread.model import bundles
    from preread.model.classifier import Classifier

    loaded = bundles.load(bundles.resolve(bundle))
    with without_native_chatter():
        classifier = Classifier(loaded)
        difference = classifier.self_check()
    return classifier, difference


@contextmanager
def without_native_chatter() -> Iterator[None]:
    """Keep what a native library writes to standard error by itself, and show it only when loading fails."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(own, 2)
            kept.seek(0)
            os.write(2, kept.read(10_000))
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
