"""What was purged stays away when an older backup is restored, whatever the file of hashes is called. On both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from preread.admin import backup, purge_journal
from preread.core.errors import DatabaseUnsuitable
from preread.core.types import FORGOTTEN, FileState, Identity, Population, RefusalCode
from preread.db import migrate
from preread.db.engine import open_engine, read, sqlite_path
from preread.ledger.ledger import Ledger
from preread.ledger.records import FileFacts, Observation
from preread.review import results
from tests.support.commands import CommandResult, CommandRunner
from tests.support.outcomes import commit_refused

pytestmark = pytest.mark.usefixtures("postgres_programs")


class Site:
    """A database, its settings, and images of patients in it."""

    def __init__(self, preread: CommandRunner, engine: Engine, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.preread, self.engine, self.url, self.folder = preread, engine, url, folder
        self._monkeypatch = monkeypatch
        self.names("PREREAD_DATABASE_URL", url)

    def names(self, setting: str, value: object) -> None:
        self._monkeypatch.setenv(setting, str(value))

    def image(self, number: int, patient: str, engine: Engine | None = None) -> bool:
        """Have one read; tell whether it got a result."""
        ledger = Ledger(engine or self.engine, worker_id="one", lease_s=60)
        root_id = ledger.register_root(b"/srv/inbox")
        bundle_id = ledger.register_bundle(name="films", version="1", digest="d" * 64)
        ledger.settle(ledger.observe(root_id, [Observation(b"%d.dcm" % number, 10, 1)]).values())
        if not (claims := ledger.claim([root_id], 1)):
            return False
        who = Identity(patient_id=patient, patient_name=f"Name of {patient}", study_instance_uid=f"1.{number}")
        facts = FileFacts(f"{number:064x}", who, "DICOM", None, 1, 1, Population.UNDECLARED, (), 1.0)
        return commit_refused(ledger, claims[0], facts, bundle_id, RefusalCode.VIEW, "lateral")

    def purge(self, patient: str, *options: str) -> CommandResult:
        return self.preread("purge", "--patient", "-", *options, stdin=f"{patient}\n")

    def held(self, patient: str) -> bool:
        return bool(self.preread("export-patient", "-", stdin=f"{patient}\n").exit_code == 0)

    def move_aside(self) -> None:
        """Make the place of the database empty."""
        self.engine.dispose()
        path = sqlite_path(self.engine)
        if path is not None:
            for ending in ("", "-wal", "-shm"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
            return
        with self.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))


@pytest.fixture
def site(
    preread: CommandRunner, engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    made = Site(preread, engine, database_url, tmp_path, monkeypatch)
    for number, patient in enumerate(("P1", "P1", "P2")):
        assert made.image(number, patient)
    yield made
    made.engine.dispose()


@pytest.fixture
def remembering(site: Site) -> Site:
    """The same, and a file for what is forgotten, which Postgres has only where it is named."""
    if site.engine.dialect.name == "postgresql":
        site.names("PREREAD_FORGOTTEN_FILE", site.folder / "forgotten")
    return site


def test_a_purged_patient_is_not_in_the_restored_backup_and_no_scan_brings_it_back(remembering: Site) -> None:
    site = remembering
    assert site.preread("db", "backup", "kept.backup").exit_code == 0
    assert site.image(3, "P1"), "came after the backup"
    assert site.purge("P1", "--yes").exit_code == 0
    site.move_aside()
    ran = site.preread("db", "restore", "kept.backup")
    assert ran.exit_code == 0, ran.err
    assert "deleted: 2 files" in ran.err
    assert (site.held("P1"), site.held("P2")) == (False, True)
    restored = open_engine(site.url)
    assert b"P1" not in b"".join(
        bytes(str(row), "utf-8") for row in read(restored, lambda c: c.execute(text("SELECT * FROM file")).all())
    )
    # the same paths are known; one that came after the backup is read, and known by its content
    assert [site.image(number, "P1", restored) for number in (0, 1)] == [False, False]
    assert not site.image(3, "P1", restored)
    assert [row.code for row in results.query_results(restored)] == ["view"]
    assert {version.code for version in _versions(restored).values() if version.state is FileState.IGNORED} == {
        FORGOTTEN
    }
    assert not site.held("P1")
    restored.dispose()
    assert site.preread("db", "check").exit_code == 0
    assert site.preread("audit", "verify").exit_code == 0


def _versions(engine: Engine) -> dict[bytes, Any]:
    ledger = Ledger(engine, worker_id="two", lease_s=60)
    return dict(
        ledger.newest_versions(ledger.register_root(b"/srv/inbox"), [b"%d.dcm" % number for number in range(4)])
    )


def test_the_file_is_found_when_the_backup_goes_into_a_database_of_another_name(
    remembering: Site, request: pytest.FixtureRequest
) -> None:
    site = remembering
    assert site.preread("db", "backup", "kept.backup").exit_code == 0
    assert site.purge("P1", "--yes").exit_code == 0
    if site.engine.dialect.name == "postgresql":
        server = request.getfixturevalue("postgres_server")
        other = server.create()
        site.names("PREREAD_DATABASE_URL", server.url(other))
    else:
        site.names("PREREAD_DATABASE_URL", f"sqlite:///{site.folder / 'other.db'}")
    for strange in ("notes-forgotten", "empty-forgotten"):
        (site.folder / strange).write_bytes(b"\xff\xfe" * strange.startswith("notes"))
    assert site.preread("db", "restore", "kept.backup").exit_code == 0
    assert (site.held("P1"), site.held("P2")) == (False, True)
    # from then on the restored database's own file remembers, the older entries too
    own = site.folder / ("forgotten" if site.engine.dialect.name == "postgresql" else "other.db-forgotten")
    entries = purge_journal.read_journal(own)
    assert len([entry for entry in entries if "version" in entry]) == 2
    assert len([entry for entry in entries if "key" in entry]) == 1


def test_a_backup_whose_purges_cannot_be_known_is_restored_only_where_that_is_accepted(remembering: Site) -> None:
    site = remembering
    journal = site.folder / ("forgotten" if site.engine.dialect.name == "postgresql" else "preread.db-forgotten")
    assert site.preread("db", "backup", "kept.backup").exit_code == 0
    assert site.purge("P1", "--yes").exit_code == 0
    aside = site.folder / "aside"
    aside.mkdir()
    os.rename(journal, aside / journal.name)
    site.move_aside()
    ran = site.preread("db", "restore", "kept.backup")
    assert (ran.exit_code, "record of purges" in ran.err) == (2, True), ran.err
    assert migrate.schema_revision(site.engine) is None, "nothing was restored"
    (site.folder / journal.name).write_text(json.dumps({"key": "00" * 32}) + "\n")
    ran = site.preread("db", "restore", "kept.backup")
    assert (ran.exit_code, "another database" in ran.err) == (2, True), ran.err
    assert migrate.schema_revision(site.engine) is None
    os.rename(aside / journal.name, site.folder / journal.name)
    assert site.preread("db", "restore", "kept.backup").exit_code == 0
    assert not site.held("P1")
    site.move_aside()
    os.unlink(site.folder / journal.name)
    assert site.preread("db", "restore", "kept.backup", "--without-record").exit_code == 0
    assert site.held("P1")


def test_a_backup_from_before_the_key_meets_a_file_that_may_be_its(remembering: Site) -> None:
    """Version 0.1.0 made the key at the first purge, so that its backups do not name the file."""
    site = remembering
    backup.back_up(site.engine, site.folder / "kept.backup")
    assert backup.check_backup(site.folder / "kept.backup").purge_key is None
    assert site.purge("P1", "--yes").exit_code == 0
    if site.engine.dialect.name == "sqlite":
        site.names("PREREAD_DATABASE_URL", f"sqlite:///{site.folder / 'other.db'}")
        ran = site.preread("db", "restore", "kept.backup")
        assert (ran.exit_code, "may be the record" in ran.err) == (2, True), ran.err
        assert not (site.folder / "other.db").exists()
        site.names("PREREAD_DATABASE_URL", site.url)
    site.move_aside()
    assert site.preread("db", "restore", "kept.backup").exit_code == 0
    assert not site.held("P1")


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_without_a_file_a_purge_says_so_before_and_is_refused(site: Site) -> None:
    for options in (["--dry-run"], ["--dry-run", "--yes"]):
        ran = site.purge("P1", *options)
        assert ran.exit_code == 0
        assert "would delete 2 files" in ran.err
        assert "PREREAD_FORGOTTEN_FILE" in ran.err
        assert "restored backup" in ran.err
    for wrong in (None, "/nowhere/forgotten", str(site.folder)):
        if wrong is not None:
            site.names("PREREAD_FORGOTTEN_FILE", wrong)
        ran = site.purge("P1", "--yes")
        assert (ran.exit_code, "nothing was deleted" in ran.err) == (2, True), ran.err
        assert "PREREAD_FORGOTTEN_FILE" in site.purge("P1", "--dry-run").err
    assert site.held("P1")
    site.names("PREREAD_FORGOTTEN_FILE", "")
    assert site.preread("purge", "--again").exit_code == 2
    assert site.purge("P1", "--yes", "--without-record").exit_code == 0
    assert not site.held("P1")
    # the key in a later backup says that something was purged, and no file can tell what
    ran = site.preread("db", "backup", "kept.backup")
    assert (ran.exit_code, "PREREAD_FORGOTTEN_FILE" in ran.err) == (0, True)
    site.move_aside()
    assert site.preread("db", "restore", "kept.backup").exit_code == 2
    assert site.preread("db", "restore", "kept.backup", "--without-record").exit_code == 0


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_beside_an_sqlite_file_there_is_always_a_place(site: Site) -> None:
    (site.folder / "preread.db-forgotten").mkdir()
    assert "is not writable or not a regular file" in site.purge("P1", "--dry-run").err
    assert site.purge("P1", "--yes").exit_code == 2
    (site.folder / "preread.db-forgotten").rmdir()
    assert site.purge("P1", "--yes").exit_code == 0
    assert (site.folder / "preread.db-forgotten").is_file()


def test_nobody_sees_a_restored_database_before_what_was_purged_is_gone(
    remembering: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every program looks at the schema first: while the restore works, and after it was broken off."""
    site = remembering
    assert site.preread("db", "backup", "kept.backup").exit_code == 0
    assert site.purge("P1", "--yes").exit_code == 0
    site.move_aside()
    seen: list[str] = []

    def broken_off(_engine: Engine) -> None:
        ran = site.preread("results", "--json")
        seen.append(f"{ran.exit_code} {ran.out}")
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(backup, "reset_restored_state", broken_off)
        site.preread("db", "restore", "kept.backup")
    assert seen == ["2 "]
    if site.engine.dialect.name == "postgresql":
        with pytest.raises(DatabaseUnsuitable, match="a restore of this database is not complete"):
            migrate.check_schema(site.engine)
        assert site.preread("db", "upgrade", "--no-backup").exit_code == 2
        assert site.preread("db", "restore", "kept.backup").exit_code == 2, "it is not empty"
        site.move_aside()
    assert site.preread("db", "restore", "kept.backup").exit_code == 0
    assert not site.held("P1")
    assert migrate.UNFINISHED not in inspect(site.engine).get_table_names()


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_restore_that_fails_leaves_the_server_s_database_empty(remembering: Site) -> None:
    site = remembering
    assert site.preread("db", "backup", "kept.backup").exit_code == 0
    site.move_aside()
    with site.engine.begin() as connection:
        connection.execute(text("CREATE FUNCTION preread_append_only() RETURNS int LANGUAGE sql AS 'SELECT 1'"))
    assert site.preread("db", "restore", "kept.backup").exit_code == 3
    assert inspect(site.engine).get_table_names() == []
