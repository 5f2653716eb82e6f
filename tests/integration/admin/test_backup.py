"""A backup taken while a real worker writes, put back into an empty place: every film is accounted for. On both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

from preread.admin import backup, reconcile
from preread.cli import main
from preread.core.errors import BackupDamaged, DatabaseUnsuitable, EnvironmentFault, UsageError
from preread.core.types import FileState
from preread.db import migrate, review_schema, schema
from preread.db.engine import database_now, open_engine, read, sqlite_path, write
from preread.model.bundles import Bundle
from preread_training.data import phantoms
from tests.programs import ledger_rows
from tests.support.paths import REPOSITORY, RUN_WORKER

WITHIN_S = 240.0
pytestmark = pytest.mark.usefixtures("postgres_programs")


@pytest.fixture
def elsewhere(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty place of the same kind."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


class Site:
    """A folder, its worker, and films that keep coming."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder, self.bundle = folder, bundle
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.films = 0

    def more(self, count: int) -> None:
        for _ in range(count):
            self.films += 1
            drawn = phantoms.draw_chest(self.films, rows=64, columns=64)
            (self.inbox / f"{self.films}.jpeg").write_bytes(phantoms.to_jpeg(drawn))

    def worker(self, url: str, **options: object) -> subprocess.Popen[bytes]:
        options = {"settle_s": 0.05, "scan_interval_s": 0.5, "slots": 1, "lease_s": 3600.0, **options}
        arguments: list[str | Path] = [
            url,
            self.bundle.path,
            self.folder / "inferences",
            json.dumps(options),
            self.inbox,
        ]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, RUN_WORKER, *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
            )


def done(engine: Engine) -> int:
    counted = select(func.count()).select_from(schema.file).where(schema.file.c.state == FileState.DONE)
    return read(engine, lambda connection: int(connection.execute(counted).scalar_one()))


def test_taken_while_a_worker_writes_and_put_back_where_nothing_is(
    tmp_path: Path, database_url: str, engine: Engine, elsewhere: str, stub_bundle: Bundle,
    eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    site, kept = Site(tmp_path, stub_bundle), tmp_path / "kept.backup"
    site.more(6)
    worker = site.worker(database_url)
    try:
        eventually(lambda: done(engine) >= 2, WITHIN_S)
        monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
        for _ in range(3):
            site.more(4)
            before = done(engine)
            assert main(["db", "backup", str(kept), "--replace"]) == 0
            assert backup.check_backup(kept).rows["file"] >= before >= 2
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait(WITHIN_S)
    made = backup.check_backup(kept)
    assert os.stat(kept).st_mode & 0o077 == 0
    assert not list(tmp_path.glob(".*.part*"))
    site.more(3)

    monkeypatch.setenv("PREREAD_DATABASE_URL", elsewhere)
    assert main(["db", "restore", str(kept)]) == 0
    restored = open_engine(elsewhere)
    assert read(restored, backup.count_rows)["assessment"] == made.rows["assessment"]
    roots = [os.fsencode(site.inbox)]
    found = reconcile.compare_with_ledger(restored, roots).differences
    assert {one.code for one in found} <= {"not_in_ledger"}, "only what came since is not accounted for"
    assert len(found) >= 3
    assert site.worker(elsewhere, once=True).wait(WITHIN_S) == 0
    assert (
        reconcile.compare_with_ledger(restored, roots, reconcile.ReconcileOptions(read_up_to_bytes=10**6)).differences
        == []
    )
    assert done(restored) == site.films
    results = read(restored, lambda c: c.execute(select(schema.assessment.c.instance_id)).scalars().all())
    assert max(Counter(results).values()) == 1
    restored.dispose()


def test_nobody_of_the_moment_of_the_backup_is_at_work_afterwards(
    tmp_path: Path, engine: Engine, elsewhere: str
) -> None:
    ledger_rows.fill(engine)
    account_id = read(engine, lambda c: c.execute(select(review_schema.account.c.id)).scalar_one())
    session = {"token_hash": "t", "account_id": account_id, "csrf": "c"}

    def sign_in(connection: object, _again: bool) -> None:
        now = database_now(connection)  # type: ignore[arg-type]
        connection.execute(review_schema.session.insert(), {**session, "created_at": now, "seen_at": now})  # type: ignore[attr-defined]

    write(engine, sign_in)
    made = backup.back_up(engine, tmp_path / "kept.backup")
    assert made.rows == read(engine, backup.count_rows) == backup.check_backup(tmp_path / "kept.backup").rows
    assert made.revision == migrate.schema_revision(engine)
    restored = open_engine(elsewhere)
    assert backup.restore(restored, tmp_path / "kept.backup", backup.reset_restored_state) == made
    rows = read(restored, backup.count_rows)
    assert (rows.pop("session"), made.rows["session"]) == (0, 1)
    assert rows.pop("transition") == made.rows["transition"] + 1
    assert rows.items() <= made.rows.items()
    states = read(restored, lambda c: c.execute(select(schema.file.c.state)).scalars().all())
    assert "claimed" not in states
    names = select(schema.file.c.patient_name).where(schema.file.c.outcome.is_not(None))
    assert read(restored, lambda c: {*c.execute(names).scalars()}) == read(
        engine, lambda c: {*c.execute(names).scalars()}
    )
    with pytest.raises(Exception, match="append-only"), restored.begin() as connection:
        connection.execute(text("UPDATE reading SET comment = ''"))
    restored.dispose()


def test_a_place_that_is_not_empty_is_left_alone(tmp_path: Path, engine: Engine) -> None:
    ledger_rows.fill(engine)
    rows = read(engine, backup.count_rows)
    backup.back_up(engine, tmp_path / "kept.backup")
    with pytest.raises(DatabaseUnsuitable, match=r"not empty|exists"):
        backup.restore(engine, tmp_path / "kept.backup")
    assert read(engine, backup.count_rows) == rows
    with pytest.raises(UsageError, match="--replace"):
        backup.back_up(engine, tmp_path / "kept.backup")


def test_a_damaged_backup_is_named_and_nothing_is_made_of_it(tmp_path: Path, engine: Engine, elsewhere: str) -> None:
    ledger_rows.fill(engine)
    kept = tmp_path / "kept.backup"
    backup.back_up(engine, kept)
    whole = kept.read_bytes()
    restored = open_engine(elsewhere)
    middle = len(whole) // 2
    for bad in (b"", b"a letter", whole[:middle], whole[:middle] + b"\xff" * 16_384 + whole[middle + 16_384 :]):
        kept.write_bytes(bad)
        with pytest.raises(BackupDamaged):
            backup.restore(restored, kept)
    if (path := sqlite_path(restored)) is not None:
        assert not list(path.parent.glob("*restored*"))
    else:
        assert read(restored, backup.count_rows) == {}
    restored.dispose()


def test_a_backup_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        backup.back_up(engine, tmp_path / "no such folder" / "kept.backup")
    monkeypatch.setattr(backup, "check_backup", lambda _file: backup.Backup("sqlite", "0001", {}, 0))
    with pytest.raises(BackupDamaged, match="was deleted"):
        backup.back_up(engine, tmp_path / "kept.backup")
    assert not list(tmp_path.glob("*kept*"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if engine.dialect.name == "postgresql":
        with pytest.raises(EnvironmentFault, match="pg_dump is not on the PATH"):
            backup.back_up(engine, tmp_path / "kept.backup")


def test_a_backup_of_the_other_kind_of_database(
    tmp_path: Path, migrated_sqlite: Path, engine: Engine, elsewhere: str, database_kind: str
) -> None:
    kept = tmp_path / "kept.backup"
    other = open_engine(f"sqlite:///{migrated_sqlite}")
    backup.back_up(other, kept)
    other.dispose()
    if database_kind == "postgres":
        empty = open_engine(elsewhere)
        with pytest.raises(BackupDamaged, match="of sqlite, but PREREAD_DATABASE_URL names postgresql"):
            backup.restore(empty, kept)
        empty.dispose()
    else:
        assert backup.check_backup(kept).kind == "sqlite"
