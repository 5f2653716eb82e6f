"""Which bundle films are assessed with: the setting's, else the one that was activated, else the newest that ships."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli import door

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.bundle import Bundle
    from worker.settings import Settings
    from worker.standing import Known, Standing


@dataclass(frozen=True, slots=True)
class InUse:
    """The bundles of a worker.

    Attributes:
        chosen: the bundle was activated; else it is the setting's or the default one.
        shadow: the one in the shadow, and since when it is.
    """

    bundle: Bundle
    chosen: bool
    shadow: tuple[Bundle, datetime] | None = None


def added_folder(settings: Settings) -> Path | None:
    """Return the folder of added bundles, ``None`` where none is named and the database is no file."""
    from worker import bundle, store
    from worker.errors import PrereadError

    try:
        engine = store.open_engine(settings.database_url)
    except PrereadError:  # a command without a database does not mind
        return bundle.folder_for(settings.bundle_dir, None)
    try:
        return bundle.folder_for(settings.bundle_dir, store.sqlite_path(engine))
    finally:
        engine.dispose()


def named(settings: Settings, name: str | None) -> str | None:
    """Return where the bundle of this name lies, for commands without a database; ``None`` for the default one."""
    from worker import bundle

    return None if name is None else str(bundle.resolve(name, added_folder(settings)))


def path(settings: Settings) -> str | None:
    """Return where the bundle in use lies; where the database cannot tell, as ``named`` does.

    Raises:
        BundleError: it may not be used.
    """
    from worker.errors import BundleError, PrereadError

    try:
        engine = door.open_database(settings)
        try:
            return str(load(settings, engine).bundle.path)
        finally:
            engine.dispose()
    except BundleError:
        raise
    except PrereadError:
        return named(settings, settings.bundle)


def load(settings: Settings, engine: Engine) -> InUse:
    """Load the bundles that a worker uses.

    Raises:
        BundleMissing, BundleDamaged: one is not on this machine, or not whole.
        BundleWithdrawn: the one in use was withdrawn.
    """
    from worker import bundle as bundles
    from worker import standing

    now = standing.look(engine)
    chosen = _chosen(settings, now)
    if chosen is None:
        bundle = bundles.load(bundles.resolve(settings.bundle, added_folder(settings)))
    else:
        bundle = _load(settings, chosen)
    now.refuse_withdrawn(bundle.digest, bundle.label)
    if now.shadow is None or now.shadow.bundle is None or now.shadow.bundle.digest == bundle.digest:
        return InUse(bundle, chosen is not None)
    return InUse(bundle, chosen is not None, (_load(settings, now.shadow.bundle), now.shadow.at))


def still(settings: Settings, engine: Engine, running: InUse) -> bool:
    """Tell whether these are still the chosen ones.

    Raises:
        BundleWithdrawn: the one in use was withdrawn meanwhile.
    """
    from worker import standing

    now = standing.look(engine)
    chosen = _chosen(settings, now)
    digest = running.bundle.digest
    if running.chosen != (chosen is not None) or (chosen is not None and chosen.digest != digest):
        return False
    now.refuse_withdrawn(digest, running.bundle.label)
    shadow = None
    if now.shadow is not None and now.shadow.bundle is not None and now.shadow.bundle.digest != digest:
        shadow = (now.shadow.bundle.digest, now.shadow.at)
    return shadow == (None if running.shadow is None else (running.shadow[0].digest, running.shadow[1]))


def _chosen(settings: Settings, now: Standing) -> Known | None:
    return None if settings.bundle is not None or now.active is None else now.active.bundle


def _load(settings: Settings, chosen: Known) -> Bundle:
    from worker import bundle as bundles
    from worker.errors import BundleMissing

    found = bundles.load(bundles.resolve(chosen.label, added_folder(settings)))
    if found.digest != chosen.digest:
        raise BundleMissing(f"{found.path} is another bundle than the {chosen.label} that was chosen")
    return found
