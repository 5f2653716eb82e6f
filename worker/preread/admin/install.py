"""Making a place for Preread on a Linux host: its user, folders, settings, database, systemd units, and root's command.

Each step says whether it is still needed, so that setup may run again at any time; settings that are there are never
written over, units are (local changes belong into ``systemctl edit``). User and folders are made by systemd's own
programs from declarations that stay on the host.
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
# path = "/srv/films"
# population = "undeclared"
"""
_SHARE = """\
[[roots]]
path = {path}
population = {population}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that setup makes sure of.

    Attributes:
        what: in words, after "make" or "would make".
        is_done: looks whether it is so already; changes nothing.
    """

    what: str
    is_done: Callable[[], bool]
    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how to install.

    Attributes:
        root: the tree; another than ``/`` for images and tests.
        database_url: for the file of settings, where there is none yet.
        shares: folders of films, the same.
        population: what is declared of the films in these folders.
        programs: where ``preread`` lies, as the units will see it.
        run: runs a program.
    """

    root: Path = Path("/")
    database_url: str = DATABASE_URL
    shares: Sequence[Path] = ()
    population: Population = Population.UNDECLARED
    programs: Path = field(default_factory=lambda: programs_folder(Path(sys.prefix)))
    run: Callable[..., object] = subprocess.run

    def steps(self) -> Iterator[Step]:
        """Yield what is to be made sure of, in order; a step looks at what those before it left."""
        sysusers, tmpfiles = Path("/etc/sysusers.d/preread.conf"), Path("/etc/tmpfiles.d/preread.conf")
        yield self._file(sysusers, _SYSUSERS)
        yield Step(
            f"the user {USER}", lambda: self._ids() is not None, partial(self._systemd, "systemd-sysusers", sysusers)
        )
        yield self._file(tmpfiles, _TMPFILES)
        yield Step(
            f"the folders {CONFIG.parent} and {HOME}",
            lambda: all(self._at(folder).is_dir() for folder in (CONFIG.parent, HOME)),
            partial(self._systemd, "systemd-tmpfiles", tmpfiles, "--create"),
        )
        yield Step(f"the settings {CONFIG}", self.has_settings, self._write_config)
        for unit in sorted(units_folder().glob("*.service")):
            yield self._file(Path("/etc/systemd/system") / unit.name, unit.read_text(encoding="utf-8"))
        yield self._file(COMMAND, _COMMAND, mode=0o755)
        yield from self._database()

    def has_settings(self) -> bool:
        """Tell whether there is a file of settings, which stays as it is."""
        return self._at(CONFIG).exists()

    def _at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def _file(self, path: Path, content: str, mode: int = 0o644) -> Step:
        target, content = self._at(path), content.replace("@BIN@", str(self.programs))

        def is_done() -> bool:
            return target.is_file() and target.read_text(encoding="utf-8") == content

        return Step(f"the file {path}", is_done, lambda: _write(target, content, mode))

    def _systemd(self, program: str, declaration: Path, *options: str) -> None:
        found = shutil.which(program)
        if found is None:
            raise EnvironmentFault(f"{program} is not on the PATH: setup is for hosts that run systemd")
        elsewhere = [] if self.root == Path("/") else [f"--root={self.root}"]
        self._run(found, *options, *elsewhere, declaration.name)

    def _run(self, *command: str, **options: object) -> None:
        try:
            self.run([*command], check=True, stdin=subprocess.DEVNULL, **options)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EnvironmentFault(f"{command[0]} failed: {error}") from error

    def _ids(self) -> tuple[int, int] | None:
        """Return the numbers of user and group in that tree."""
        try:
            lines = self._at(Path("/etc/passwd")).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        parts = next((line.split(":") for line in lines if line.startswith(f"{USER}:")), None)
        return None if parts is None else (int(parts[2]), int(parts[3]))

    def _owner(self) -> tuple[int, int]:
        ids = self._ids()
        if ids is None:
            raise EnvironmentFault(f"systemd-sysusers made no user {USER}")
        return ids

    def _write_config(self) -> None:
        population = _toml(self.population.value)
        tables = [_SHARE.format(path=_toml(os.path.abspath(one)), population=population) for one in self.shares]
        beside = "" if self.database_url.startswith("sqlite") else _BESIDE_A_SERVER
        content = (
            _CONFIG_HEAD.format(url=_toml(self.database_url)) + beside + _POPULATION + ("\n".join(tables) or _NO_SHARE)
        )
        # the URL may hold a password: for the service's group alone
        _write(self._at(CONFIG), content, 0o640, group=self._owner()[1])

    def _database(self) -> Iterator[Step]:
        url = self._configured_url()
        if url.startswith("sqlite:"):
            engine = open_engine(url)
            path = sqlite_path(engine)
            engine.dispose()
            assert path is not None
            yield Step(f"the database {path}", self._at(path).exists, lambda: self._make_sqlite(self._at(path)))
        elif self.root == Path("/"):
            # as the service's user: a server on this host knows it by that
            yield Step("the database's schema", lambda: False, self._upgrade_server)

    def _configured_url(self) -> str:
        return str(self._configured().get("database_url", DATABASE_URL))

    def _configured(self) -> dict[str, object]:
        """Return what stands in the file of settings, or will."""
        try:
            return tomllib.loads(self._at(CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"database_url": self.database_url}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{self._at(CONFIG)} cannot be read: {error}") from error

    def _make_sqlite(self, path: Path) -> None:
        """Make it apart and put it in its place: in a folder of the service's, root follows no link."""
        engine = open_engine(f"sqlite:///{path}")
        named = (self._configured().get(name) for name in ("preview_dir", "forgotten_file"))
        beside = [Path(f"{path}-previews"), Path(f"{path}{purge_journal.ENDING}")]
        try:
            migrate.refuse_remains(engine, [*beside, *(self._at(HOME / str(one)) for one in named if one)])
        finally:
            engine.dispose()
        user, group = self._owner()
        with tempfile.TemporaryDirectory(prefix=".preread-setup-", dir=path.parent.parent) as apart:
            made = Path(apart) / path.name
            engine = open_engine(f"sqlite:///{made}")
            try:
                migrate.upgrade(engine)
            finally:
                engine.dispose()
            os.chown(made, user, group)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.link(made, path.name, dst_dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)

    def _upgrade_server(self) -> None:
        user, group = self._owner()
        command = (str(self.programs / "preread"), "--config", str(CONFIG), "db", "upgrade")
        # libpq looks for .pgpass where HOME says
        self._run(*command, user=user, group=group, extra_groups=[], cwd=HOME, env=os.environ | {"HOME": str(HOME)})


def programs_folder(prefix: Path) -> Path:
    """Return where the programs of an environment lie; by way of ``current`` where that leads to it.

    So units outlive the version that wrote them: ``install.sh`` lets the link point to the next.
    """
    current = prefix.parent / "current"
    return (current if current.is_symlink() and current.resolve() == prefix.resolve() else prefix) / "bin"


def units_folder() -> Path:
    """Return where the units lie: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve()
    inside = here.parent / "systemd"
    return inside if inside.is_dir() else here.parents[3] / "deploy" / "systemd"


def _toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write(target: Path, content: str, mode: int, *, group: int = 0) -> None:
    """Write a file of root's whole or not at all."""
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
