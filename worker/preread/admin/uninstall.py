"""Removal from a Linux host of what setup and the units created.

Nothing is deleted recursively: each deleted file has a name that setup, the worker or a purge gives. Everything else is
kept and listed. Data are deleted only if asked for by name. Programs below ``/opt/preread`` and the user are left to
the administrator.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import make_url

from preread.admin import install
from preread.admin.purge_journal import purge_journal_path as journal_beside
from preread.core.errors import EnvironmentFault
from preread.core.settings import Settings
from preread.db import audit_key
from preread.db.engine import open_engine
from preread.imaging.previews import locate_preview_folder
from preread.model.bundles import locate_added_bundles

UNITS = Path("/etc/systemd/system")
_OF_SETUP = (Path("/etc/sysusers.d/preread.conf"), Path("/etc/tmpfiles.d/preread.conf"), install.COMMAND)
_OF_ADMINISTRATOR = (install.CONFIG, install.CONFIG.with_name("preread.env"))
_PREVIEWS_OF = re.compile(r"[0-9a-f]{2}")
_PREVIEW = re.compile(r"[0-9a-f]{64}\.png")


@dataclass(frozen=True, slots=True)
class RemovalStep:
    """One file or folder of an installation to remove.

    Attributes:
        what: description, after "remove" or "would remove".
        do: removes it.
    """

    what: str
    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Host:
    """Host from which Preread is uninstalled.

    Attributes:
        settings: settings, which name the data.
        root: root of the file tree; not ``/`` for images and tests.
        run: starts a program; called as ``subprocess.run``.
    """

    settings: Settings
    root: Path = Path("/")
    run: Callable[..., object] = subprocess.run

    @property
    def name_of_data(self) -> str:
        """Name to type before stored data are deleted."""
        return str(self._database() or install.HOME)

    def stop(self) -> None:
        """Stop and disable Preread's services on the host.

        Raises:
            EnvironmentFault: systemd fails.
        """
        units = [unit.name for unit in self._units()]
        systemctl = shutil.which("systemctl")
        if not units or systemctl is None:
            return
        here = self.root == Path("/") and os.path.isdir("/run/systemd/system")
        how = ["disable", "--now"] if here else ["disable", f"--root={self.root}"]
        try:
            self.run([systemctl, *how, *units], check=True, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EnvironmentFault(f"systemctl failed: {error}") from error

    def steps(self, *, data: bool) -> Iterator[RemovalStep]:
        """Yield the files of the installation that exist, to remove them.

        Args:
            data: also database, previews, purge journal, audit key and settings.
        """
        for path in (*(UNITS / unit.name for unit in self._units()), *_OF_SETUP):
            if os.path.lexists(self._at(path)):
                yield self._file(path)
        if data:
            yield from self._data()

    def remaining(self) -> list[tuple[str, str]]:
        """Return what remains on the host, with the commands that remove it."""
        items = [
            (f"programs in {path}", f"rm -r {path}") for path in (Path("/opt/preread"),) if self._at(path).is_dir()
        ]
        for folder in dict.fromkeys((install.HOME, install.CONFIG.parent, *self._places())):
            place = self._at(folder)
            if place.is_dir():
                entries = sorted(entry.name for entry in os.scandir(place))
                items.append((f"{folder}: {', '.join(entries) or 'empty'}", f"rm -r {folder}"))
            elif os.path.lexists(place):
                items.append((str(folder), f"rm {folder}"))
        drop_ins = [UNITS / f"{unit}.d" for unit in self._shipped() if self._at(UNITS / f"{unit}.d").is_dir()]
        items += [(f"changes of the unit in {path}", f"rm -r {path}") for path in drop_ins]
        if self._database() is None:
            items.append(("the database on its server", "dropdb, as its administrator"))
        if self._has_user():
            items.append((f"the user {install.USER}", f"userdel {install.USER}"))
        return items

    def _at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def _shipped(self) -> list[str]:
        return sorted(unit.name for unit in install.find_units_folder().glob("*.service"))

    def _units(self) -> list[Path]:
        return [place for unit in self._shipped() if os.path.lexists(place := self._at(UNITS / unit))]

    def _has_user(self) -> bool:
        try:
            lines = self._at(Path("/etc/passwd")).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return any(line.startswith(f"{install.USER}:") for line in lines)

    def _database(self) -> Path | None:
        open_engine(self.settings.database_url).dispose()  # is it a URL?
        url = make_url(self.settings.database_url)
        return install.HOME / str(url.database) if url.get_backend_name() == "sqlite" else None

    def _previews(self) -> Path | None:
        return locate_preview_folder(_of_service(self.settings.preview_dir), self._database())

    def _journal(self) -> Path | None:
        return journal_beside(_of_service(self.settings.forgotten_file), self._database())

    def _audit_key(self) -> Path | None:
        return _of_service(self.settings.audit_key_file) or audit_key.default_audit_key_path(self._database())

    def _places(self) -> list[Path]:
        """Return the paths of this installation's data, the database first."""
        bundles = locate_added_bundles(_of_service(self.settings.bundle_dir), self._database())
        places = (self._database(), self._previews(), self._journal(), self._audit_key(), bundles)
        return [path for path in places if path is not None]

    def _data(self) -> Iterator[RemovalStep]:
        database, previews, journal = self._database(), self._previews(), self._journal()
        if database is not None:
            here = self._at(database)
            files = [Path(f"{database}{ending}") for ending in ("", "-wal", "-shm", "-journal")]
            backups = here.parent.glob(f"{here.name}.????.backup") if here.parent.is_dir() else ()
            for path in (*files, *(database.with_name(file_.name) for file_ in sorted(backups))):
                if os.path.lexists(self._at(path)):
                    yield self._file(path)
        if previews is not None and self._at(previews).is_dir():
            yield RemovalStep(f"the previews in {previews}", lambda: _remove_previews(self._at(previews)))
        for file_ in (journal, self._audit_key(), *_OF_ADMINISTRATOR):
            if file_ is not None and os.path.lexists(self._at(file_)):
                yield self._file(file_)
        for folder in (install.HOME, install.CONFIG.parent):
            if self._at(folder).is_dir():
                yield RemovalStep(f"the folder {folder}, if nothing else is in it", partial(_rmdir, self._at(folder)))

    def _file(self, path: Path) -> RemovalStep:
        return RemovalStep(f"the file {path}", lambda: _unlink(self._at(path)))


def _of_service(path: Path | None) -> Path | None:
    """Return a path relative to the service's working folder as absolute."""
    return None if path is None else install.HOME / path


def _unlink(path: Path) -> None:
    """Remove a file or symlink; keep a folder of that name."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)


def _rmdir(path: Path) -> None:
    """Remove a folder if it is empty."""
    if not os.listdir(path):
        os.rmdir(path)


def _remove_previews(folder: Path) -> None:
    """Remove previews by their names, then empty folders; follow no symlink."""
    for name in sorted(entry.name for entry in os.scandir(folder) if _PREVIEWS_OF.fullmatch(entry.name)):
        try:
            inner = os.open(folder / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except NotADirectoryError:
            continue
        try:
            for preview in os.listdir(inner):
                if _PREVIEW.fullmatch(preview):
                    os.unlink(preview, dir_fd=inner)
            empty = not os.listdir(inner)
        finally:
            os.close(inner)
        if empty:
            os.rmdir(folder / name)
    _rmdir(folder)
