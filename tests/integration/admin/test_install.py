"""``preread setup`` into a temporary tree with systemd's own programs; the units as systemd's own checks see them."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from preread.admin import install
from preread.cli import main
from preread.core import settings
from preread.core.errors import EnvironmentFault
from preread.core.types import Population
from preread.db import migrate
from preread.db.engine import open_engine

EXPOSURE_MAX = 20  # tenths; systemd calls what is below 2.0 OK, a unit without hardening has 9.6


@pytest.fixture
def tree() -> Iterator[Path]:
    """An empty tree that others than root may enter, as they may any real one."""
    with tempfile.TemporaryDirectory(prefix="preread-tree-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def content(tree: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and time of everything in a tree."""
    found = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(tree))] = (status.st_mode, status.st_uid, status.st_mtime_ns)
    return found


@pytest.mark.systemd
def test_a_place_is_made_once(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[str] = ["setup", "--root", str(tree), "--share", "/srv/films", "--population", "research"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert {"would create the user preread", "would create the database /var/lib/preread/preread.db"} <= set(said)
    assert sum("/etc/systemd/system/" in line for line in said) == len(list(install.find_units_folder().iterdir())) >= 2
    assert all(line.startswith("would create ") for line in said)
    assert content(tree) == {}

    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [line.removeprefix("would ") for line in said]
    (uid, gid), home = re.findall(r"^preread:x:(\d+):(\d+):", (tree / "etc/passwd").read_text(), re.MULTILINE)[0], tree
    database = home / "var/lib/preread/preread.db"
    for path, mode, owner, group in (
        (database, 0o600, int(uid), int(gid)),
        (database.parent, 0o700, int(uid), int(gid)),
        (tree / "etc/preread", 0o750, 0, int(gid)),
        (tree / "etc/preread/preread.toml", 0o640, 0, int(gid)),
        (tree / "usr/local/sbin/preread", 0o755, 0, 0),
    ):
        status = path.stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (mode, owner, group), path
    subprocess.run(["sh", "-n", tree / "usr/local/sbin/preread"], check=True)
    assert f"{Path(sys.prefix) / 'bin'}/preread --config" in (tree / "usr/local/sbin/preread").read_text()
    engine = open_engine(f"sqlite:///{database}")
    migrate.check_schema(engine, exactly=True)
    engine.dispose()
    assert [entry.name for entry in database.parent.parent.iterdir()] == ["preread"]
    loaded = settings.load_settings(tree / "etc/preread/preread.toml")
    assert loaded.database_url == "sqlite:////var/lib/preread/preread.db"
    assert [(str(root.path), root.population) for root in loaded.roots] == [("/srv/films", Population.RESEARCH)]

    (tree / "etc/preread/preread.toml").write_text("# mine\n")
    (tree / "etc/systemd/system/preread-web.service").write_text("# of an older version\n")
    before = content(tree)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["create the file /etc/systemd/system/preread-web.service"]
    assert "preread.toml exists and is not changed" in printed.err
    assert {name for name, what in content(tree).items() if before[name] != what} == {
        "etc/systemd/system",
        "etc/systemd/system/preread-web.service",
    }
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.systemd
def test_whose_images_they_are_is_asked_and_no_answer_is_preset(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[str] = ["setup", "--root", str(tree), "--share", "/srv/films", "--share", "/srv/more"]
    assert main(arguments) == 2, "nobody to ask"
    said = capsys.readouterr().err
    assert "--population" in said
    assert "answered as if they were children's" in said
    assert content(tree) == {}
    assert main(["setup", "--root", str(tree), "--population", "undeclared"]) == 2, "of which folder?"
    assert main([*arguments, "--population", "adults"]) == 2
    assert content(tree) == {}
    monkeypatch.setattr("preread.cli.invoking_user.is_interactive", lambda: True)
    for answers in ("", "\n\n", "yes\nchildren\nCHILDREN-1-5Y\n\n1\n2\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answers))
        assert main(arguments) != 0, "an empty line is no answer, nor is a guess"
        assert content(tree) == {}
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("\nnobody\nundeclared\n"))
    assert main(arguments) == 0
    assert "answered as if they were children's" in capsys.readouterr().err
    config = tree / "etc/preread/preread.toml"
    assert [(str(root.path), root.population.value) for root in settings.load_settings(config).roots] == [
        ("/srv/films", "undeclared"),
        ("/srv/more", "undeclared"),
    ]
    assert "an adult's too" in config.read_text()


@pytest.mark.systemd
def test_without_a_folder_the_settings_show_where_population_goes(tree: Path) -> None:
    assert main(["setup", "--root", str(tree)]) == 0
    config = tree / "etc/preread/preread.toml"
    assert settings.load_settings(config).roots == ()
    lines = config.read_text().splitlines()
    at = lines.index("# [[roots]]")
    config.write_text("\n".join([*lines[:at], *(line.removeprefix("# ") for line in lines[at:])]))
    assert [root.population for root in settings.load_settings(config).roots] == [Population.UNDECLARED]


@pytest.mark.systemd
def test_settings_for_a_server_name_what_lies_on_this_machine(tree: Path) -> None:
    assert main(["setup", "--root", str(tree), "--database-url", "postgresql://preread@/preread"]) == 0
    loaded = settings.load_settings(tree / "etc/preread/preread.toml")
    assert loaded.database_url == "postgresql://preread@/preread"
    home = install.HOME
    assert [loaded.preview_dir, loaded.bundle_dir, loaded.forgotten_file, loaded.audit_key_file] == [
        home / "previews", home / "bundles", home / "forgotten", home / "audit-key",
    ]  # fmt: skip
    assert (tree / "var/lib/preread").is_dir()


@pytest.mark.systemd
@pytest.mark.parametrize("remains", ["preread.db-previews/ab/cd.png", "preread.db-wal", "kept/ab/cd.png"])
def test_setup_makes_no_database_where_something_of_another_one_lies(
    tree: Path, remains: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["setup", "--root", str(tree)]) == 0
    home = tree / "var/lib/preread"
    (home / "preread.db").unlink()
    config = tree / "etc/preread/preread.toml"
    config.write_text(f'{config.read_text()}preview_dir = "/var/lib/preread/kept"\n')
    (home / remains).parent.mkdir(parents=True, exist_ok=True)
    (home / remains).write_bytes(b"x")
    capsys.readouterr()
    assert main(["setup", "--root", str(tree)]) == 2
    assert remains.split("/", maxsplit=1)[0] in capsys.readouterr().err
    assert not (home / "preread.db").exists()


@pytest.mark.systemd
def test_the_units_pass_systemds_own_checks(tmp_path: Path) -> None:
    units = []
    for unit in install.find_units_folder().iterdir():
        text = unit.read_text().replace("@BIN@", str(Path(sys.executable).parent))
        units.append(tmp_path / unit.name)
        units[-1].write_text(text)
    checked = subprocess.run(["systemd-analyze", "verify", *units], check=False, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    security: list[str | Path] = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", *units]
    assessed = subprocess.run(security, check=False, capture_output=True, text=True)
    assert assessed.returncode == 0, assessed.stdout[-300:]


def calls_of(name: str) -> set[str]:
    """System calls of one name in a unit's filter: a set of systemd's, with the sets in it, or the call itself."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    names = {line.strip() for line in listed.splitlines()[1:] if line.strip() and "#" not in line}
    return set().union(*map(calls_of, names))


@pytest.mark.systemd
def test_the_workers_unit_allows_what_confines_inference_processes() -> None:
    """A process that may not ask for a filter stays without one; `preread check` runs outside of the unit."""
    unit = (install.find_units_folder() / "preread-worker.service").read_text()
    allowed: set[str] = set()
    for words in re.findall(r"^SystemCallFilter=(.+)$", unit, re.MULTILINE):
        named = set().union(*map(calls_of, words.removeprefix("~").split()))
        allowed = allowed - named if words.startswith("~") else allowed | named
    assert len(allowed) > 200
    assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self", "prctl", "prlimit64", "fstat"} <= allowed
    assert not {"mount", "ptrace", "bpf", "init_module", "reboot", "chroot"} & allowed


def test_what_setup_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["setup", "--root", str(tmp_path)]) == 2
    assert "sudo" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    steps = {step.what: step for step in install.Installation(tmp_path).steps()}
    with pytest.raises(EnvironmentFault, match="systemd-sysusers is not on the PATH"):
        steps["the user preread"].do()


def test_a_place_that_cannot_be_written_and_a_database_that_is_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["setup", "--root", str(tmp_path / "tree"), "--database-url", "mysql://preread@db/preread"]) == 2
    assert "mysql" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "etc").write_text("a file where a folder belongs")
    assert main(["setup", "--root", str(tmp_path)]) == 3
    assert str(tmp_path / "etc") in capsys.readouterr().err


def test_a_servers_schema_is_made_by_the_services_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree has no server; on a host it knows its clients by their user."""
    place = install.Installation(tmp_path, "postgresql://preread@/preread")
    assert not [step for step in place.steps() if "schema" in step.what]
    ran: list[tuple[list[str], dict[str, object]]] = []
    here = install.Installation(
        Path("/"), "postgresql://preread@/preread", programs=Path("/opt/preread/current/bin"),
        run=lambda command, **options: ran.append((command, options)),
    )  # fmt: skip
    monkeypatch.setattr(install.Installation, "_ids", lambda _place: (990, 991))
    monkeypatch.setattr(install.Installation, "_configured_url", lambda place: place.database_url)
    (schema,) = [step for step in here.steps() if "schema" in step.what]
    schema.do()
    ((command, options),) = ran
    assert command == ["/opt/preread/current/bin/preread", "--config", "/etc/preread/preread.toml", "db", "upgrade"]
    assert (options["user"], options["group"], options["extra_groups"]) == (990, 991, [])
    environment = options["env"]
    assert isinstance(environment, dict)
    assert environment["HOME"] == "/var/lib/preread", "libpq finds the password there"
