"""Selection of a model bundle by the database and the settings.

The configured bundle is used, else the activated one, else the newest that ships.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine

from preread.admin import bundle_registry
from preread.admin.bundle_registry import Choice, KnownBundle, Selection
from preread.core.errors import BundleError, BundleMissing
from preread.model import bundles
from preread.model.bundles import Bundle

_LOG = logging.getLogger(__name__)
_MISSING_HINT = (
    "Files wait and none is lost. Activate an installed bundle (`preread bundle activate NAME/VERSION`), or add the "
    "missing one (`preread bundle add FOLDER`): a bundle of the previous version lies in its folder preread/bundles."
)


@dataclass(frozen=True, slots=True)
class SelectedBundles:
    """Bundles that a worker uses.

    Attributes:
        active: bundle whose results are shown.
        is_activated: ``True`` if ``active`` was activated in the database, ``False`` if it is the configured or the
            default one.
        shadow_choice: digest of the bundle that was chosen as shadow, and when; ``None`` if there is none, or if it is
            the active one.
        shadow: the shadow bundle and when it was chosen; also ``None`` if it cannot be used on this machine.
    """

    active: Bundle
    is_activated: bool
    shadow_choice: tuple[str, datetime] | None = None
    shadow: tuple[Bundle, datetime] | None = None


@dataclass(frozen=True, slots=True)
class InstalledBundle:
    """One bundle in the list of the bundles on this machine.

    Attributes:
        label: ``name/version``.
        path: folder, or ``None`` if the bundle in use is not on this machine.
        in_use: results of this bundle are shown.
        shadow: the bundle is the shadow.
        withdrawn: reason of the withdrawal, or ``None``.
        fault: why the bundle cannot be used, or ``None`` if all its files are as its manifest says.
        intended_use: statement of the manifest; empty if the manifest cannot be read.
    """

    label: str
    path: Path | None
    in_use: bool
    shadow: bool
    withdrawn: str | None
    fault: str | None
    intended_use: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """Bundles installed on this machine, by name and ascending version.

    Attributes:
        bundles: the installed bundles; the last one may be the bundle in use that is not on this machine.
        activation: last activation in the database; ``None`` if there is none.
        missing: the error if the bundle in use is not on this machine, or ``None``.
    """

    bundles: tuple[InstalledBundle, ...]
    activation: Choice | None
    missing: BundleMissing | None


class BundleSelection:
    """Selects and loads the bundles of one installation.

    Args:
        engine: database with the choices; ``None`` if there is none, so that only ``configured`` counts.
        configured: folder, name or ``name/version`` of the setting ``bundle``; it overrides the database.
        added_folder: folder of the bundles that were added on this machine, or ``None``.
    """

    def __init__(self, engine: Engine | None, *, configured: str | None, added_folder: Path | None) -> None:
        self._engine = engine
        self._configured = configured
        self._added_folder = added_folder

    def load(self) -> SelectedBundles:
        """Load the bundles that a worker uses.

        A shadow that cannot be used is logged and left out.

        Raises:
            BundleMissing, BundleDamaged: the bundle in use is not on this machine, or damaged.
            BundleWithdrawn: the bundle in use was withdrawn.
        """
        choices = self._choices()
        activated = self._activated(choices)
        active = self.load_named(self._configured) if activated is None else self._load_chosen(activated)
        if choices is None:
            return SelectedBundles(active, is_activated=False)
        choices.refuse_withdrawn(active.digest, active.label)
        shadow_choice = _shadow_choice(choices, active.digest)
        shadow = None
        if shadow_choice is not None and choices.shadow is not None and choices.shadow.bundle is not None:
            try:
                shadow = (self._load_chosen(choices.shadow.bundle), choices.shadow.at)
            except BundleError as error:  # no image waits for a shadow
                _log_unusable(error, choices.shadow.bundle.label)
        return SelectedBundles(active, activated is not None, shadow_choice, shadow)

    def load_named(self, name: str | None) -> Bundle:
        """Load an installed bundle.

        Args:
            name: folder, name (newest version) or ``name/version``; ``None`` for the newest default one that ships.

        Raises:
            BundleMissing, BundleDamaged: there is no such bundle, or it is damaged.
        """
        return bundles.load_bundle(bundles.find_bundle(name, self._added_folder))

    def load_all_usable(self) -> tuple[list[Bundle], list[tuple[Path, BundleError]]]:
        """Load every bundle of this machine that may be used.

        Returns:
            The bundles, by name and ascending version, and for each of the others its folder and the error.
        """
        choices = self._choices()
        paths = bundles.list_all_bundles(self._added_folder)
        if self._configured is not None and Path(self._configured).is_dir():
            paths.append(Path(self._configured))
        usable, unusable = [], []
        for path in paths:
            try:
                loaded = bundles.load_bundle(path)
                if choices is not None:
                    choices.refuse_withdrawn(loaded.digest, loaded.label)
            except BundleError as error:
                unusable.append((path, error))
            else:
                usable.append(loaded)
        return usable, unusable

    def is_current(self, selected: SelectedBundles) -> bool:
        """Return whether the database still selects these bundles.

        Raises:
            BundleWithdrawn: the active bundle was withdrawn in the meantime.
        """
        choices = self._choices()
        if choices is None:
            return True
        active, activated = selected.active, self._activated(choices)
        if selected.is_activated != (activated is not None):
            return False
        if activated is not None and activated.digest != active.digest:
            return False
        choices.refuse_withdrawn(active.digest, active.label)
        return _shadow_choice(choices, active.digest) == selected.shadow_choice

    def refuse_withdrawn(self, bundle: Bundle) -> None:
        """Raise ``BundleWithdrawn`` if the bundle was withdrawn."""
        if (choices := self._choices()) is not None:
            choices.refuse_withdrawn(bundle.digest, bundle.label)

    def inventory(self) -> Inventory:
        """List the installed bundles with their role and state.

        Raises:
            BundleMissing: no bundle is installed.
        """
        choices = self._choices()
        activated = self._activated(choices)
        name = self._configured if activated is None else activated.label
        path_in_use: Path | None = None
        missing: BundleMissing | None = None
        try:
            path_in_use = bundles.find_bundle(name, self._added_folder)
        except BundleMissing as error:
            missing = error
        paths = bundles.list_all_bundles(self._added_folder)
        if path_in_use is not None and path_in_use not in paths:
            paths.append(path_in_use)
        if not paths:
            raise BundleMissing("no bundle is installed")
        found = [_inspect(path, choices, in_use=path == path_in_use) for path in paths]
        if missing is not None:
            found.append(InstalledBundle(name or "", None, True, False, None, "not on this machine", ""))
        return Inventory(tuple(found), None if choices is None else choices.active, missing)

    def _choices(self) -> Selection | None:
        return None if self._engine is None else bundle_registry.current_selection(self._engine)

    def _activated(self, choices: Selection | None) -> KnownBundle | None:
        """Return the activated bundle; ``None`` if another one is used."""
        if self._configured is not None or choices is None or choices.active is None:
            return None
        return choices.active.bundle

    def _load_chosen(self, chosen: KnownBundle) -> Bundle:
        try:
            loaded = self.load_named(chosen.label)
        except BundleMissing as error:
            missing = BundleMissing(f"{chosen.label} was chosen with `preread bundle`: {error}")
            missing.hint = _MISSING_HINT
            raise missing from error
        if loaded.digest != chosen.digest:
            raise BundleMissing(
                f"{loaded.path} has the digest {loaded.digest[:12]}, but the {chosen.label} that is selected has "
                f"{chosen.digest[:12]}"
            )
        return loaded


class BundleWatch:
    """Detects that other bundles were selected than those in use."""

    def __init__(self, selection: BundleSelection, running: SelectedBundles) -> None:
        self._selection = selection
        self._running = running
        self._logged = ""

    def is_current(self) -> bool:
        """Return ``False`` if other, usable bundles were selected.

        Raises:
            BundleWithdrawn: the active bundle was withdrawn in the meantime.
        """
        if self._selection.is_current(self._running):
            return True
        try:
            self._selection.load()
        except BundleError as error:
            self._selection.refuse_withdrawn(self._running.active)
            if str(error) != self._logged:
                self._logged = str(error)
                _log_unusable(error, self._running.active.label)
            return True
        return False


def _inspect(path: Path, choices: Selection | None, *, in_use: bool) -> InstalledBundle:
    try:
        loaded = bundles.load_bundle(path)
    except BundleError as error:
        return InstalledBundle(f"{path.parent.name}/{path.name}", path, in_use, False, None, str(error), "")
    known = None if choices is None else choices.bundles.get(loaded.digest)
    shadow = None if choices is None or choices.shadow is None else choices.shadow.bundle
    return InstalledBundle(
        loaded.label,
        path,
        in_use,
        shadow=known is not None and known == shadow,
        withdrawn=None if known is None else known.withdrawn,
        fault=None,
        intended_use=loaded.manifest.intended_use.statement,
    )


def _shadow_choice(choices: Selection, active_digest: str) -> tuple[str, datetime] | None:
    shadow = choices.shadow
    if shadow is None or shadow.bundle is None or shadow.bundle.digest == active_digest:
        return None
    return shadow.bundle.digest, shadow.at


def _log_unusable(error: BundleError, label: str) -> None:
    _LOG.error("bundle_not_usable", extra={"code": error.code, "bundle": label})
