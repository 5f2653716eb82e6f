"""The command as a process of its own: how it starts, how it ends, what it does with its pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from preread.cli.app import CommandTable, app
from preread_training.data.phantoms import draw_chest, to_jpeg
from tests.support.commands import CommandRunner
from tests.support.paths import REPOSITORY

# What no command may load before it is needed: `preread --help` answers at once.
HEAVY = ("ai_edge_litert", "numpy", "pydicom", "sqlalchemy", "alembic", "pydantic", "rich", "tensorflow", "watchdog")


def start(*arguments: Any, cwd: Any, environment: Any = None, **options: Any) -> Any:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    return subprocess.Popen(
        [sys.executable, "-m", "preread", *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments: Any, cwd: Any, environment: Any = None, stdin: Any = "") -> Any:
    process = start(*arguments, cwd=cwd, environment=environment)
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out, err


@pytest.fixture
def database(tmp_path: Path, migrated_sqlite: Path) -> Any:
    shutil.copy(migrated_sqlite, tmp_path / "preread.db")
    return tmp_path


def test_help_loads_nothing_heavy() -> None:
    program = f"import sys, preread.cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_every_command_is_listed_with_the_first_sentence_of_its_help() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for entry in CommandTable.entries:
        command = group.commands[entry.name]
        assert entry.help == command.get_short_help_str(limit=200), entry.name


def test_no_list_of_commands_is_cut_off(preread: CommandRunner) -> None:
    def groups(command: Any, words: Any) -> Iterator[Any]:
        yield words
        for name, child in getattr(command, "commands", {}).items():
            if hasattr(child, "commands"):
                yield from groups(child, [*words, name])

    for words in groups(typer.main.get_command(app), []):
        _, _, listed = preread(*words, "--help").out.partition("\nCommands:\n")
        assert listed, words
        assert "..." not in listed, words


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from preread.cli import main; main([]); main(['--help']); main(['versoin']); "
        "print({'preread.cli.run', 'preread.cli.version', 'preread.cli.users'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "{'preread.cli.version'}"
    assert "Did you mean 'version'?" in answer.stderr


def test_completion_imports_no_command() -> None:
    program = "import atexit, sys; atexit.register(lambda: print('preread.cli.bundle' in sys.modules)); "
    words = {"_PREREAD_COMPLETE": "complete_bash", "COMP_WORDS": "preread b", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", f"{program}from preread.cli import main; main([])"]
    environment = {**os.environ, **words}
    answer = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, env=environment)
    assert sorted(answer.stdout.split()) == ["False", "backfill", "bundle"]


def test_the_status_loads_nothing_that_it_does_not_need(database: Any) -> None:
    # monitoring asks every minute or so
    program = (
        "import sys; from preread.cli import main; main(['status']); "
        "print({'numpy', 'alembic', 'pydicom', 'ai_edge_litert'} & {*sys.modules})"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREREAD_")}
    command = [sys.executable, "-c", program]
    environment = {**inherited, "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(command, cwd=database, check=True, capture_output=True, text=True, env=environment)
    assert "no_worker" in answer.stdout
    assert answer.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["assess"],
        ["results"],
        ["results", "show"],
        ["explain"],
        ["check"],
        ["bundle"],
        ["db"],
        ["version"],
    ],
    ids=lambda arguments: " ".join(arguments) or "preread",
)
def test_every_command_explains_itself(tmp_path: Path, arguments: Any) -> None:
    code, out, err = run(*arguments, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "Usage: preread" in out
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_command_ends_with_2_and_its_usage(tmp_path: Path) -> None:
    code, out, err = run("asess", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "asess" in err
    assert "Traceback" not in err


def test_a_mistyped_setting_is_one_message_and_no_traceback(tmp_path: Path) -> None:
    code, out, err = run("results", cwd=tmp_path, environment={"PREREAD_DATABSE_URL": "sqlite:///x.db"})
    assert (code, out) == (2, "")
    assert err.startswith("preread: there is no setting PREREAD_DATABSE_URL; did you mean PREREAD_DATABASE_URL?")
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_drama(database: Any) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    for arguments in (["results", "--csv"], ["--help"], ["check"]):
        process = start(*arguments, cwd=database, stdout=write_end)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, arguments
        assert "Traceback" not in err
        assert "BrokenPipe" not in err
        assert "Exception" not in err
    os.close(write_end)


def test_a_terminal_that_is_not_utf8_gets_escapes(database: Any) -> None:
    code, out, err = run("check", cwd=database, environment={"PYTHONIOENCODING": "ascii"})
    assert code == 1, err
    assert out.isascii()


def test_the_patient_id_comes_by_standard_input(database: Any) -> None:
    code, out, err = run("results", "--json", "--patient", "-", cwd=database, stdin="PAT-1\n")
    assert (code, out, err) == (0, "", "")


def test_no_terminal_no_progress_bar_and_no_colour(database: Any) -> None:
    code, out, err = run("results", cwd=database)
    assert code == 0
    assert "\x1b" not in out + err


def test_db_upgrade_makes_a_database_that_only_its_owner_reads(tmp_path: Path) -> None:
    code, out, err = run("db", "upgrade", cwd=tmp_path)
    assert (code, out) == (0, ""), err
    assert (tmp_path / "preread.db").stat().st_mode & 0o077 == 0


def test_a_film_is_assessed_with_the_bundle_that_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "film.jpg").write_bytes(to_jpeg(draw_chest(1)))
    code, out, err = run("assess", "--json", "film.jpg", cwd=tmp_path)
    assert code == 0, err
    record = json.loads(out)
    assert record["outcome"] == "assessed"
    assert record["findings"][0]["finding"] == "pneumonia"
    assert 0 < record["findings"][0]["prevalence"] < 1
    assumed, summary = err.splitlines()
    assert assumed.startswith("population undeclared: these files are in no watched folder of the settings")
    assert summary == f"1 file: 1 assessed; bundle {record['bundle']}"


def test_a_picture_that_is_no_film_is_refused_by_the_bundle_that_is_shipped(
    tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "ramp.jpg").write_bytes(jpeg())
    code, out, err = run("assess", "--json", "ramp.jpg", cwd=tmp_path)
    assert code == 0, err
    assert (json.loads(out)["outcome"], json.loads(out)["code"]) == ("refused", "not_chest")


def test_the_bundle_that_is_shipped_is_whole_and_gives_its_golden_results(tmp_path: Path) -> None:
    code, out, err = run("bundle", "verify", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "is whole" in out
