"""Installation on a Linux host: user, folders, settings, database, units.

Each step tests whether it is still needed, so that setup can be repeated at any time. Existing settings are never
overwritten, units are (local changes belong into ``systemctl edit``). User and folders are created by systemd-sysusers
and systemd-tmpfiles from declarations that stay on the host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from preread.admin import purge_journal
from preread.core.errors import EnvironmentFault, SettingsError
from preread.core.types import Population
from preread.db import migrate
from preread.db.engine import open_engine, sqlite_path

USER = "preread"
HOME = Path("/var/lib/preread")
CONFIG = Path("/etc/preread/preread.toml")
DATABASE_URL = f"sqlite:///{HOME / 'preread.db'}"
_SYSUSERS = f'u {USER} - "Preread" {HOME}\n'
_TMPFILES = f"d {CONFIG.parent} 0750 root {USER} -\nd {HOME} 0700 {USER} {USER} -\n"
COMMAND = Path("/usr/local/sbin/preread")
# What root types. The variables of the units count as they do for them, which `runuser` would leave out.
_COMMAND = f"""\
#!/bin/sh
# From preread setup: the program as the service has it, with its user, settings and rights. Name files by whole paths.
exec systemd-run --quiet --pipe --pty --wait --collect --uid={USER} --gid={USER} --working-directory={HOME} \\
  --property=EnvironmentFile=-/etc/preread/preread.env --property=UMask=0077 \\
  @BIN@/preread --config {CONFIG} "$@"
"""
_CONFIG_HEAD = """\
# Settings of Preread: docs/reference/settings.md lists them. PREREAD_* in /etc/preread/preread.env win over this file.
database_url = {url}
"""
# With SQLite they lie beside the database by themselves.
_BESIDE_A_SERVER = f"""
# What lies on this machine and not on the server: previews for the page, bundles that were added, the hashes by which a
# restored backup forgets again what was purged, and the key of the audit trail.
preview_dir = "{HOME}/previews"
bundle_dir = "{HOME}/bundles"
forgotten_file = "{HOME}/forgotten"
audit_key_file = "{HOME}/audit-key"
"""
_POPULATION = """
# population says what is certain of every image in a folder: children-1-5y (each patient is 1 to 5 years old: an image
# that names no age is answered as a child's, an adult's too), undeclared (not certain: images that name no age are not
# analysed), or research (images outside the intended use are analysed too, with that limitation).
"""
_NO_SHARE = """\
# Each watched folder is a table like this one.
# [[roots]]
# path = "/srv/images"
# population = "undeclared"
"""
_SHARE = """\
[[roots]]
path = {path}
population = {population}
"""


@dataclass(frozen=True, slots=True)
class InstallStep:
    """One step of the installation on a host.

    Attributes:
        what: description, after "make" or "would make".
        is_done: returns whether the step is done; changes nothing.
        do: carries it out.
    """

    what: str
    is_done: Callable[[], bool]
    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Installation:
    """Target and options of an installation on a host.

    Attributes:
        root: root of the file tree; not ``/`` for images and tests.
        database_url: for a new settings file.
        shares: watched folders, for a new settings file.
        population: declared population of these folders.
        programs: folder of the command ``preread`` as the units see it.
        run: starts a program; called as ``subprocess.run``.
    """

    root: Path = Path("/")
    database_url: str = DATABASE_URL
    shares: Sequence[Path] = ()
    population: Population = Population.UNDECLARED
    programs: Path = field(default_factory=lambda: find_scripts_folder(Path(sys.prefix)))
    run: Callable[..., object] = subprocess.run

    def steps(self) -> Iterator[InstallStep]:
        """Yield the steps in order; a step sees the results of those before it."""
        sysusers, tmpfiles = Path("/etc/sysusers.d/preread.conf"), Path("/etc/tmpfiles.d/preread.conf")
        yield self._file(sysusers, _SYSUSERS)
        yield InstallStep(
            f"the user {USER}", lambda: self._ids() is not None, partial(self._systemd, "systemd-sysusers", sysusers)
        )
        yield self._file(tmpfiles, _TMPFILES)
        yield InstallStep(
            f"the folders {CONFIG.parent} and {HOME}",
            lambda: all(self._at(folder).is_dir() for folder in (CONFIG.parent, HOME)),
            partial(self._systemd, "systemd-tmpfiles", tmpfiles, "--create"),
        )
        yield InstallStep(f"the settings {CONFIG}", self.has_settings, self._write_config)
        for unit in sorted(find_units_folder().glob("*.service")):
            yield self._file(Path("/etc/systemd/system") / unit.name, unit.read_text(encoding="utf-8"))
        yield self._file(COMMAND, _COMMAND, mode=0o755)
        yield from self._database()

    def has_settings(self) -> bool:
        """Return whether a settings file exists, which is kept."""
        return self._at(CONFIG).exists()

    def _at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def _file(self, path: Path, content: str, mode: int = 0o644) -> InstallStep:
        target, content = self._at(path), content.replace("@BIN@", str(self.programs))

        def is_done() -> bool:
            return target.is_file() and target.read_text(encoding="utf-8") == content

        return InstallStep(f"the file {path}", is_done, lambda: _write(target, content, mode))

    def _systemd(self, program: str, declaration: Path, *options: str) -> None:
        executable = shutil.which(program)
        if executable is None:
            raise EnvironmentFault(f"{program} is not on the PATH: setup is for hosts that run systemd")
        elsewhere = [] if self.root == Path("/") else [f"--root={self.root}"]
        self._run(executable, *options, *elsewhere, declaration.name)

    def _run(self, *command: str, **options: object) -> None:
        try:
            self.run([*command], check=True, stdin=subprocess.DEVNULL, **options)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EnvironmentFault(f"{command[0]} failed: {error}") from error

    def _ids(self) -> tuple[int, int] | None:
        """Return uid and gid of the service's user in that tree, or ``None``."""
        try:
            lines = self._at(Path("/etc/passwd")).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        parts = next((line.split(":") for line in lines if line.startswith(f"{USER}:")), None)
        return None if parts is None else (int(parts[2]), int(parts[3]))

    def _owner(self) -> tuple[int, int]:
        ids = self._ids()
        if ids is None:
            raise EnvironmentFault(f"systemd-sysusers did not create the user {USER}")
        return ids

    def _write_config(self) -> None:
        population = _toml(self.population.value)
        tables = [_SHARE.format(path=_toml(os.path.abspath(share)), population=population) for share in self.shares]
        server_settings = "" if self.database_url.startswith("sqlite") else _BESIDE_A_SERVER
        content = (
            _CONFIG_HEAD.format(url=_toml(self.database_url))
            + server_settings
            + _POPULATION
            + ("\n".join(tables) or _NO_SHARE)
        )
        # the URL may hold a password: readable by the service's group only
        _write(self._at(CONFIG), content, 0o640, group=self._owner()[1])

    def _database(self) -> Iterator[InstallStep]:
        url = self._configured_url()
        if url.startswith("sqlite:"):
            engine = open_engine(url)
            path = sqlite_path(engine)
            engine.dispose()
            assert path is not None
            yield InstallStep(f"the database {path}", self._at(path).exists, lambda: self._make_sqlite(self._at(path)))
        elif self.root == Path("/"):
            # as the service's user, whom a server on this host authenticates by name (peer)
            yield InstallStep("the database's schema", lambda: False, self._upgrade_server)

    def _configured_url(self) -> str:
        return str(self._configured().get("database_url", DATABASE_URL))

    def _configured(self) -> dict[str, object]:
        """Return the values of the settings file, existing or to be written."""
        try:
            return tomllib.loads(self._at(CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"database_url": self.database_url}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{self._at(CONFIG)} cannot be read: {error}") from error

    def _make_sqlite(self, path: Path) -> None:
        """Create the database in a private folder and link it to its place.

        The place is in a folder that the service's user owns, where root must not follow symlinks.
        """
        engine = open_engine(f"sqlite:///{path}")
        configured = (self._configured().get(name) for name in ("preview_dir", "forgotten_file"))
        remains = [Path(f"{path}-previews"), Path(f"{path}{purge_journal.ENDING}")]
        try:
            migrate.refuse_remains(engine, [*remains, *(self._at(HOME / str(name)) for name in configured if name)])
        finally:
            engine.dispose()
        user, group = self._owner()
        with tempfile.TemporaryDirectory(prefix=".preread-setup-", dir=path.parent.parent) as private:
            new = Path(private) / path.name
            engine = open_engine(f"sqlite:///{new}")
            try:
                migrate.upgrade_schema(engine)
            finally:
                engine.dispose()
            os.chown(new, user, group)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.link(new, path.name, dst_dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)

    def _upgrade_server(self) -> None:
        user, group = self._owner()
        command = (str(self.programs / "preread"), "--config", str(CONFIG), "db", "upgrade")
        # libpq looks for .pgpass in HOME
        self._run(*command, user=user, group=group, extra_groups=[], cwd=HOME, env=os.environ | {"HOME": str(HOME)})


def find_scripts_folder(prefix: Path) -> Path:
    """Return the folder of a Python environment's command scripts.

    Args:
        prefix: ``sys.prefix`` of the environment.

    Returns:
        Its ``bin``, by way of a link ``current`` if that leads to it: units then outlive the version that wrote them,
        since ``install.sh`` points the link to the next.
    """
    current = prefix.parent / "current"
    return (current if current.is_symlink() and current.resolve() == prefix.resolve() else prefix) / "bin"


def find_units_folder() -> Path:
    """Return the folder with Preread's systemd unit files."""
    module = Path(__file__).resolve()
    packaged = module.parent / "systemd"
    return packaged if packaged.is_dir() else module.parents[3] / "deploy" / "systemd"


def _toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write(target: Path, content: str, mode: int, *, group: int = 0) -> None:
    """Write a file of root atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, 0, group)
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise
