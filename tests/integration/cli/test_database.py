"""A database that is not there, and what a server's database has no place for: said before anything is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preread.core import filesystems
from preread.core.errors import DatabaseAway
from preread.db import migrate
from preread.db.engine import database_now, open_engine, read
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from tests.support.commands import CommandRunner


@pytest.fixture
def able(preread: CommandRunner, brightness_classifier: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("preread.cli.self_check.load_checked", lambda _bundle: (brightness_classifier, 0.0))
    (tmp_path / "films").mkdir()
    return preread


COMMANDS = [
    ["run", "--root", "films", "--once"],
    ["results"],
    ["web"],
    ["explain", "films"],
    ["drift"],
    ["users", "list"],
    ["quarantine", "list"],
    ["db", "check"],
    ["db", "downgrade", "--no-backup"],
    ["purge", "--older-than", "1", "--dry-run"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_names_the_path_and_asks_for_its_disk(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path}/disk/preread.db")
    (tmp_path / "disk").mkdir()
    ran = able(*command)
    assert (ran.exit_code, ran.out) == (2, "")
    assert f"no database at {tmp_path}/disk/preread.db: is its disk mounted?" in ran.err
    assert list((tmp_path / "disk").iterdir()) == []


def test_check_and_status_say_it_in_their_own_way(able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path}/preread.db")
    (row,) = [record for record in able("check", "--root", "films", "--json").records if record["what"] == "database"]
    assert (row["ok"], f"{tmp_path}/preread.db" in row["found"], "disk mounted" in row["found"]) == (False, True, True)
    ran = able("status")
    assert ran.exit_code == 2
    assert f"{tmp_path}/preread.db: is its disk mounted?" in ran.out
    ran = able("db", "backup", "kept")
    assert (ran.exit_code, "is its disk mounted?" in ran.err) == (3, True)


def test_a_file_that_goes_away_under_a_program_is_named(tmp_path: Path, migrated_sqlite: Path) -> None:
    path = tmp_path / "preread.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    read(engine, database_now)
    os.rename(path, tmp_path / "elsewhere.db")
    with pytest.raises(DatabaseAway, match="is its disk mounted"):
        read(engine, database_now)
    engine.dispose()


def test_where_fstab_names_a_disk_that_is_away_nothing_is_made_on_the_other_one(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "fstab").write_text(f"/dev/sdz1 {tmp_path}/disk ext4 defaults,nofail 0 2\n")
    monkeypatch.setattr(filesystems, "FSTAB", tmp_path / "fstab")
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path}/disk/preread.db")
    for command in (["db", "upgrade"], ["results"]):
        ran = able(*command)
        assert ran.exit_code == 2
        assert f"/etc/fstab names {tmp_path}/disk, and nothing is mounted there" in ran.err
    assert list((tmp_path / "disk").iterdir()) == []
    assert able("db", "upgrade", "--new").exit_code == 0


def a_preview(folder: Path) -> None:
    assert previews.store_preview(folder, "0" * 64, encode_preview(np.zeros((9, 9), np.uint8)), 0)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("remains", ["-previews", "-forgotten", "-shm", ".0010.backup"])
def test_no_database_is_made_where_something_of_another_one_lies(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_database_url: Any, remains: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", empty_database_url)
    path = Path(empty_database_url.removeprefix("sqlite:///"))
    if remains == "-previews":
        a_preview(Path(f"{path}-previews"))
    else:
        Path(f"{path}{remains}").write_bytes(b"x")
    for _ in range(2):
        ran = able("db", "upgrade")
        assert ran.exit_code == 2
        assert f"{path}{remains}" in ran.err
        assert "--new" in ran.err
        assert not path.exists()
        path.write_bytes(b"")  # nor is a file without a byte a database
        os.unlink(path)
    assert able("db", "upgrade", "--new").exit_code == 0
    assert able("db", "upgrade").exit_code == 0, "it is there now"


def test_a_file_without_a_byte_is_no_database_either(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path}/preread.db")
    (tmp_path / "preread.db").touch()
    a_preview(tmp_path / "preread.db-previews")
    assert able("db", "upgrade").exit_code == 2
    assert able("run", "--root", "films", "--once").exit_code == 2
    engine = open_engine(f"sqlite:///{tmp_path}/preread.db")
    assert migrate.schema_revision(engine) is None
    engine.dispose()


@pytest.mark.parametrize("log", ["-wal", "-journal"])
def test_a_log_that_holds_rows_is_never_taken_into_a_new_database(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path}/preread.db")
    (tmp_path / f"preread.db{log}").write_bytes(b"rows")
    for options in ([], ["--new"]):
        ran = able("db", "upgrade", *options)
        assert (ran.exit_code, "holds committed rows" in ran.err) == (2, True)
    assert (tmp_path / f"preread.db{log}").read_bytes() == b"rows"
    assert not (tmp_path / "preread.db").exists()


def test_the_default_database_is_not_made_beside_remains_by_run(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_preview(tmp_path / "preread.db-previews")
    ran = able("run", "--root", "films", "--once")
    assert (ran.exit_code, "preread.db-previews" in ran.err) == (2, True)
    assert not (tmp_path / "preread.db").exists()


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_an_empty_server_database_beside_previews_is_refused_too(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_database_url: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("PREREAD_PREVIEW_DIR", str(tmp_path / "previews"))
    a_preview(tmp_path / "previews")
    ran = able("db", "upgrade")
    assert (ran.exit_code, "previews" in ran.err) == (2, True)
    engine = open_engine(empty_database_url)
    assert migrate.schema_revision(engine) is None
    engine.dispose()
    assert able("db", "upgrade", "--new").exit_code == 0


# --------------------------------------------------------------------------- what a server has no place for


def test_check_warns_of_each_place_that_a_server_s_database_lacks(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_kind: Any, database_url: str
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", database_url)
    settings = {
        "previews": ("PREREAD_PREVIEW_DIR", "previews"),
        "added bundles": ("PREREAD_BUNDLE_DIR", "bundles"),
        "purged files": ("PREREAD_FORGOTTEN_FILE", "forgotten"),
        "audit trail's key": ("PREREAD_AUDIT_KEY_FILE", "audit-key"),
    }

    def warned() -> dict[str, tuple[str, str]]:
        ran = able("check", "--root", "films", "--json")
        assert ran.exit_code == 0, ran.out
        assert all(record["ok"] for record in ran.records)
        assert ran.err.startswith("the worker can start")
        return {r["what"]: (r["found"], r["remedy"]) for r in ran.records if r["warning"]}

    first = warned()
    assert set(first) == (set(settings) if database_kind == "postgres" else set())
    for what, (name, _) in settings.items():
        assert what not in first or name in first[what][0]
        assert what not in first or "/var/lib/preread/" in first[what][1]
    if database_kind == "postgres":
        assert "restored backup would bring back" in first["purged files"][0]
        ran = able("check", "--root", "films")
        assert (ran.out.count(" warning "), ran.err.endswith("; 4 warnings\n")) == (4, True)
    for name, place in settings.values():
        monkeypatch.setenv(name, str(tmp_path / place))
    assert warned() == {}
    monkeypatch.setenv("PREREAD_FORGOTTEN_FILE", str(tmp_path / "no folder" / "forgotten"))
    assert set(warned()) == {"purged files"}
