"""Which bundle films are assessed with: the setting's, else the one that was activated, else the newest that ships."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from preread.cli import context as door
from preread.cli import output

_LOG = logging.getLogger(__name__)
_LACKING = (
    "Films wait and none is lost. Choose one that is here, `preread bundle activate NAME/VERSION`, or bring that one, "
    "`preread bundle add FOLDER`: one that shipped with the version before lies there in worker/bundles."
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from preread.admin.bundle_registry import KnownBundle, Selection
    from preread.core.settings import Settings
    from preread.model.bundles import Bundle
    from preread.monitoring.health import Health


@dataclass(frozen=True, slots=True)
class InUse:
    """The bundles of a worker.

    Attributes:
        chosen: the bundle was activated; else it is the setting's or the default one.
        wanted: the digest of the one that was chosen for the shadow, and when.
        shadow: that one, and since when it is; ``None`` also where this machine lacks it.
    """

    bundle: Bundle
    chosen: bool
    wanted: tuple[str, datetime] | None = None
    shadow: tuple[Bundle, datetime] | None = None


def added_folder(settings: Settings) -> Path | None:
    """Return the folder of added bundles, ``None`` where none is named and the database is no file."""
    from preread.core.errors import PrereadError
    from preread.db.engine import open_engine, sqlite_path
    from preread.model import bundles

    try:
        engine = open_engine(settings.database_url)
    except PrereadError:  # a command without a database does not mind
        return bundles.added_bundle_folder(settings.bundle_dir, None)
    try:
        return bundles.added_bundle_folder(settings.bundle_dir, sqlite_path(engine))
    finally:
        engine.dispose()


def named(settings: Settings, name: str | None) -> str | None:
    """Return where the bundle of this name lies, for commands without a database; ``None`` for the default one."""
    from preread.model import bundles

    return None if name is None else str(bundles.resolve(name, added_folder(settings)))


def path(settings: Settings) -> str | None:
    """Return where the bundle in use lies; where the database cannot tell, as ``named`` does.

    Raises:
        BundleError: it may not be used.
    """
    from preread.core.errors import BundleError, PrereadError

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
        BundleMissing, BundleDamaged: the one in use is not on this machine, or not whole.
        BundleWithdrawn: the one in use was withdrawn.
    """
    from preread.admin import bundle_registry
    from preread.core.errors import BundleError
    from preread.model import bundles

    now = bundle_registry.current_selection(engine)
    chosen = _chosen(settings, now)
    if chosen is None:
        bundle = bundles.load(bundles.resolve(settings.bundle, added_folder(settings)))
    else:
        bundle = _load(settings, chosen)
    now.refuse_withdrawn(bundle.digest, bundle.label)
    wanted = _wanted(now, bundle.digest)
    shadow = None
    if wanted is not None and now.shadow is not None and now.shadow.bundle is not None:
        try:
            shadow = (_load(settings, now.shadow.bundle), now.shadow.at)
        except BundleError as error:  # no film waits for a shadow
            _LOG.error("bundle_not_usable", extra={"code": error.code, "bundle": now.shadow.bundle.label})
    return InUse(bundle, chosen is not None, wanted, shadow)


def judged(settings: Settings, engine: Engine, found: Health) -> Health:
    """Return a report that also says, where no worker runs, that none could start on this machine for its bundle."""
    from preread.core.errors import BundleError
    from preread.monitoring.health import Level, Problem

    silent = {"no_worker", "worker_silent"} & {problem.code for problem in found.problems}
    if not silent or not (settings.bundle or _was_chosen(engine)):  # the one that ships is here
        return found
    try:
        load(settings, engine)
    except BundleError as error:
        problem = Problem(Level.CRITICAL, error.code, f"no worker can start on this machine: {error}. {error.hint}")
        return replace(found, problems=(problem, *found.problems))
    return found


def _was_chosen(engine: Engine) -> bool:
    """Look without what it takes to load a bundle."""
    from sqlalchemy import select

    from preread.db.admin_schema import Part, activation
    from preread.db.engine import read

    a = activation.c
    last = select(a.bundle_id).where(a.part == Part.ACTIVE).order_by(a.id.desc()).limit(1)
    return read(engine, lambda connection: connection.execute(last).scalar()) is not None


def say_no_shadow(label: str) -> None:
    """Say that the films of this command get no answer of the bundle in the shadow."""
    output.say(
        f"{label} does not assess these films: a bundle in the shadow works in `preread run` that goes on watching, "
        "and in a fleet, not with --once"
    )


class Watch:
    """Looks whether the bundles that a worker has are still the chosen ones."""

    def __init__(self, settings: Settings, engine: Engine, running: InUse) -> None:
        self._settings = settings
        self._engine = engine
        self._running = running
        self._told = ""

    def still(self) -> bool:
        """Return ``False`` where others were chosen, and can be used on this machine; else it goes on as it is.

        Raises:
            BundleWithdrawn: the one in use was withdrawn meanwhile.
        """
        from preread.admin import bundle_registry
        from preread.core.errors import BundleError

        now = bundle_registry.current_selection(self._engine)
        if self._same(now):
            return True
        try:
            load(self._settings, self._engine)
        except BundleError as error:
            now.refuse_withdrawn(self._running.bundle.digest, self._running.bundle.label)
            if str(error) != self._told:
                self._told = str(error)
                _LOG.error("bundle_not_usable", extra={"code": error.code, "bundle": self._running.bundle.label})
            return True
        return False

    def _same(self, now: Selection) -> bool:
        running, chosen = self._running, _chosen(self._settings, now)
        digest = running.bundle.digest
        if running.chosen != (chosen is not None) or (chosen is not None and chosen.digest != digest):
            return False
        now.refuse_withdrawn(digest, running.bundle.label)
        return _wanted(now, digest) == running.wanted


def _wanted(now: Selection, active: str) -> tuple[str, datetime] | None:
    shadow = now.shadow
    if shadow is None or shadow.bundle is None or shadow.bundle.digest == active:
        return None
    return shadow.bundle.digest, shadow.at


def _chosen(settings: Settings, now: Selection) -> KnownBundle | None:
    return None if settings.bundle is not None or now.active is None else now.active.bundle


def _load(settings: Settings, chosen: KnownBundle) -> Bundle:
    from preread.core.errors import BundleMissing
    from preread.model import bundles

    try:
        found = bundles.load(bundles.resolve(chosen.label, added_folder(settings)))
    except BundleMissing as error:
        lacking = BundleMissing(f"{chosen.label} was chosen with `preread bundle`: {error}")
        lacking.hint = _LACKING
        raise lacking from error
    if found.digest != chosen.digest:
        raise BundleMissing(f"{found.path} is another bundle than the {chosen.label} that was chosen")
    return found
