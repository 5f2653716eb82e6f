"""``preread uninstall`` from a temporary tree that setup and a worker filled: what goes, and what stays."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from preread.admin import install, uninstall
from preread.cli import main
from preread.core.errors import EnvironmentFault
from preread.core.settings import Settings, load_settings
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview

DATABASE = "/var/lib/preread/preread.db"


@pytest.fixture
def tree() -> Iterator[Path]:
    """An empty tree that others than root may enter, as they may any real one."""
    with tempfile.TemporaryDirectory(prefix="preread-tree-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def installed(tree: Path) -> Path:
    """What setup makes, and what a worker, an upgrade, an administrator and a stranger leave in time."""
    assert main(["setup", "--root", str(tree), "--share", "/srv/films", "--population", "undeclared"]) == 0
    home = tree / "var/lib/preread"
    for number in range(3):
        preview = encode_preview(np.zeros((9, 9), np.uint8))
        assert previews.store_preview(home / "preread.db-previews", f"{number}" * 64, preview, 0)
    for name in (
        "preread.db-wal",
        "preread.db-shm",
        "preread.db.0010.backup",
        "preread.db-forgotten",
        "preread.db-audit-key",
    ):
        (home / name).write_bytes(b"x")
    (home / "preread.db-bundles/films/2").mkdir(parents=True)
    (home / "preread.db-bundles/films/2/manifest.json").write_text("{}")
    (tree / "etc/systemd/system/preread-worker.service.d").mkdir()
    (tree / "etc/systemd/system/preread-worker.service.d/override.conf").write_text("[Service]\n")
    (tree / "etc/systemd/system/theirs.service").write_text("[Unit]\n")
    (tree / "srv/films").mkdir(parents=True)
    (tree / "srv/films/film.dcm").write_bytes(b"film")
    (tree / "opt/preread/0.1.0/bin").mkdir(parents=True)
    return tree


def files(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()}


OF_SETUP = {
    "etc/sysusers.d/preread.conf", "etc/tmpfiles.d/preread.conf", "usr/local/sbin/preread",
    *(f"etc/systemd/system/{unit.name}" for unit in install.find_units_folder().glob("*.service")),
}  # fmt: skip


@pytest.mark.systemd
def test_data_stay_and_what_stays_is_named(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(installed)
    assert main(["uninstall", "--root", str(installed), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert files(installed) == before
    assert {line.removeprefix("would remove the file /") for line in said if line.startswith("would ")} == OF_SETUP
    assert main(["uninstall", "--root", str(installed)]) == 0
    said_now = capsys.readouterr().out
    assert before - files(installed) == OF_SETUP
    for stays, how in (
        ("/var/lib/preread", "rm -r /var/lib/preread"), ("preread.db-previews", ""), ("preread.db-forgotten", ""),
        ("/etc/preread", "rm -r /etc/preread"), ("programs in /opt/preread", "rm -r /opt/preread"),
        ("preread-worker.service.d", "rm -r /etc/systemd/system/preread-worker.service.d"),
        ("the user preread", "userdel preread"),
    ):  # fmt: skip
        assert stays in said_now
        assert how in said_now
    assert main(["uninstall", "--root", str(installed)]) == 0
    assert "nothing that setup created exists" in capsys.readouterr().err
    # setup makes it good again, and the data are as they were
    assert main(["setup", "--root", str(installed)]) == 0
    assert files(installed) == before


@pytest.mark.systemd
def test_data_go_by_their_name_alone(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["uninstall", "--root", str(installed), "--data"]
    before = files(installed)
    for wrong in (["--confirm", "yes"], ["--confirm", ""], ["--confirm", "/var/lib/preread"], []):
        assert main([*arguments, *wrong]) == 2
    assert main(["uninstall", "--root", str(installed), "--confirm", DATABASE]) == 2, "without --data nothing is meant"
    monkeypatch.setattr("preread.cli.invoking_user.is_interactive", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(arguments) == 2
    assert files(installed) == before
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert f"--confirm {DATABASE}" in capsys.readouterr().err
    assert files(installed) == before
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{DATABASE}\n"))
    assert main(arguments) == 0
    left = files(installed)
    assert {name for name in left if "preread" in name} == {
        "var/lib/preread/preread.db-bundles/films/2/manifest.json",
        "etc/systemd/system/preread-worker.service.d/override.conf",
    }
    assert "srv/films/film.dcm" in left
    assert "etc/systemd/system/theirs.service" in left
    assert not (installed / "etc/preread").exists()
    assert "preread.db-bundles" in capsys.readouterr().out


@pytest.mark.systemd
def test_only_what_has_a_preview_s_name_goes_and_no_link_is_followed(installed: Path) -> None:
    folder = installed / "var/lib/preread/preread.db-previews"
    outside = installed / "srv/films"
    film = outside / f"{'a' * 64}.png"
    film.write_bytes(b"a film that looks like a preview")
    os.symlink(outside, folder / "aa")
    (folder / "00" / "notes.txt").write_text("an administrator's")
    (folder / "zz").mkdir()
    (folder / "zz" / f"{'b' * 64}.png").write_bytes(b"x")
    os.unlink(installed / "var/lib/preread/preread.db-forgotten")
    os.symlink(film, installed / "var/lib/preread/preread.db-forgotten")
    assert main(["uninstall", "--root", str(installed), "--data", "--confirm", DATABASE]) == 0
    assert film.read_bytes() == b"a film that looks like a preview"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        "00", "00/notes.txt", "aa", "zz", f"zz/{'b' * 64}.png",
    ]  # fmt: skip
    assert not os.path.lexists(installed / "var/lib/preread/preread.db-forgotten")


@pytest.mark.systemd
def test_with_postgres_the_server_s_database_is_its_administrator_s(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["setup", "--root", str(tree), "--database-url", "postgresql://preread@/preread"]) == 0
    home = tree / "var/lib/preread"
    (home / "forgotten").write_text("{}\n")
    (home / "audit-key").write_text("key\n")
    assert previews.store_preview(home / "previews", "0" * 64, encode_preview(np.zeros((9, 9), np.uint8)), 0)
    assert main(["uninstall", "--root", str(tree), "--data", "--confirm", DATABASE]) == 2
    assert main(["uninstall", "--root", str(tree), "--data", "--confirm", "/var/lib/preread"]) == 0
    assert not home.exists()
    said = capsys.readouterr().out
    assert "the database on its server" in said
    assert "dropdb" in said


@pytest.mark.systemd
def test_settings_that_cannot_be_read_hinder_the_data_alone(installed: Path) -> None:
    (installed / "etc/preread/preread.toml").write_text("nonsense = \n")
    before = files(installed)
    assert main(["uninstall", "--root", str(installed), "--data", "--confirm", DATABASE]) == 2
    assert files(installed) == before
    assert main(["uninstall", "--root", str(installed)]) == 0
    assert before - files(installed) == OF_SETUP


def test_a_relative_place_is_the_service_s_and_not_the_shell_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preread.db").write_bytes(b"another one's")
    (tmp_path / "preread.toml").write_text('database_url = "sqlite:///preread.db"\npreview_dir = "previews"\n')
    host = uninstall.Host(load_settings(tmp_path / "preread.toml"), tmp_path / "tree")
    assert host.name_of_data == DATABASE
    assert list(host.steps(data=True)) == []


def test_services_are_stopped_first_and_a_failure_keeps_everything(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "preread-web.service").write_text("[Unit]\n")
    ran: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        ran.append(command)
        raise subprocess.CalledProcessError(1, command)

    host = uninstall.Host(Settings(), tmp_path, run)
    with pytest.raises(EnvironmentFault, match="systemctl failed"):
        host.stop()
    ((_, *words),) = ran
    assert words == ["disable", f"--root={tmp_path}", "preread-web.service"]


def test_what_uninstall_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["uninstall", "--root", str(tmp_path)]) == 2
    assert main(["uninstall", "--root", str(tmp_path), "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
