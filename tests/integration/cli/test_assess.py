"""`preread assess` and the rest of the door, run in this process; the network is the tests' own."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from preread.admin.bundle_selection import BundleSelection
from preread.cli import bundle, self_check
from preread.core.text.wording import NO_DEVICE
from preread.core.types import Population
from preread.model import bundles
from preread.runner import pool, service
from preread_training.data import phantoms
from tests.support.commands import CommandRunner


@pytest.fixture
def assess(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, brightness_classifier: Any, brightness_slots: Any
) -> Any:
    monkeypatch.setattr(BundleSelection, "load_named", lambda self, name: brightness_classifier.bundle)
    return lambda *arguments: preread("assess", *map(str, arguments))


def test_people_get_a_table_in_words(assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg(230))
    ran = assess("film.jpg")
    assert ran.exit_code == 0
    assert "pneumonia flagged (" in ran.out
    assert "% at prevalence 25 %)" in ran.out
    assert "1 to 5 years was assumed" in ran.out
    assert ran.out.rstrip().endswith(NO_DEVICE)
    assert "1 file: 1 assessed; bundle brightness/1.0.0" in ran.err


def test_the_root_of_the_settings_that_holds_a_film_declares_it(
    assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    for folder in ("kids", "lab", "else"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "film.jpg").write_bytes(jpeg(230))
    (tmp_path / "behind").symlink_to(tmp_path / "kids")
    (tmp_path / "preread.toml").write_text(
        '[[roots]]\npath = "kids"\npopulation = "children-1-5y"\n[[roots]]\npath = "lab"\npopulation = "research"\n'
    )
    for path in ("kids/film.jpg", "kids", "behind/film.jpg"):
        ran = assess(path, "--json")
        assert "age_declared" in ran.records[0]["caveats"]
        assert "population children-1-5y: declared for the watched folder kids" in ran.err
    assert "age_assumed" in assess("else/film.jpg", "--json").records[0]["caveats"]
    assert "these files are in no watched folder" in assess("else/film.jpg").err
    mixed = assess("kids", "lab")
    assert mixed.exit_code == 2
    assert "choose one with --population" in mixed.err
    said = assess("kids", "lab", "--population", "research")
    assert said.exit_code == 0
    assert "population" not in said.err


def test_the_root_that_holds_a_film_names_its_patient_by_the_path(
    assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    for folder in ("kids/P1/a", "kids/other", "else/P2/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "film.jpg").write_bytes(jpeg(230))
    (tmp_path / "behind").symlink_to(tmp_path / "kids")
    (tmp_path / "preread.toml").write_text(
        '[[roots]]\npath = "kids"\npopulation = "children-1-5y"\npath_pattern = "{patient_id}/a/*.jpg"\n'
    )
    for path in ("kids/P1/a/film.jpg", "kids/P1", "behind/P1/a/film.jpg"):
        (record,) = assess(path, "--json").records
        assert record["outcome"] == "assessed"
        assert "unidentified" not in record["caveats"]
    for path in ("kids/other", "else"):  # another form of path, and no root's
        (record,) = assess(path, "--json").records
        assert "unidentified" in record["caveats"]


def test_programs_get_json_lines_and_nothing_else_on_standard_output(
    assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(230))
    (tmp_path / "b.jpg").write_bytes(b"no film")
    ran = assess(".", "--json")
    assert ran.exit_code == 0
    first, second = ran.records
    assert (first["outcome"], first["findings"][0]["answer"]) == ("assessed", "flagged")
    assert (second["outcome"], second["code"], second["findings"]) == ("unreadable", "unknown_format", [])
    assert "unknown_format 1" in ran.err


def test_the_summary_gives_each_code_to_its_own_outcome(
    assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg())
    (tmp_path / "flat.jpg").write_bytes(jpeg(rows=40, columns=300))
    (tmp_path / "text.jpg").write_bytes(b"no film")
    ran = assess(".")
    summary = ran.err.splitlines()[-1]
    assert summary == (
        "3 files: 1 assessed, 1 refused (shape 1), 1 unreadable (unknown_format 1); bundle brightness/1.0.0"
    )


def test_a_path_that_does_not_exist_ends_with_1_and_the_others_are_done(
    assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg())
    ran = assess("missing.dcm", "film.jpg", "--json")
    assert ran.exit_code == 1
    assert [record["outcome"] for record in ran.records] == ["unreadable", "assessed"]
    assert "missing.dcm: there is no such file or folder" in ran.err


def test_no_file_at_all_ends_with_1(assess: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = assess("empty")
    assert (ran.exit_code, ran.out) == (1, "")
    assert "no file found" in ran.err


def test_a_hostile_name_steers_no_terminal(assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / os.fsdecode(b"a\x1b[2J[red]\xff.jpg")).write_bytes(jpeg())
    os.symlink("nowhere", tmp_path / "\x1b]0;owned\x07")
    for arguments in ([], ["--json"]):
        ran = assess(".", *arguments)
        assert "\x1b" not in ran.out + ran.err
        assert "\x07" not in ran.out + ran.err
    assert r"a\x1b[2J[red]\xff.jpg" in assess(".").out


def test_the_declaration_decides_and_is_an_option(
    assess: Any, preread: CommandRunner, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "film.jpg").write_bytes(jpeg())
    (record,) = assess("film.jpg", "--population", "children-1-5y", "--json").records
    assert "age_declared" in record["caveats"]
    assert assess("film.jpg", "--population", "adults").exit_code == 2


def test_no_word_for_health_is_ever_printed(assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    for brightness in (5, 118, 250):
        (tmp_path / f"{brightness}.jpg").write_bytes(jpeg(brightness))
    said = (assess(".").out + assess(".", "--json").out).lower()
    for word in ("normal", "negative", "no finding", "healthy"):
        assert word not in said


# ---------------------------------------------------------------------- bundles


def test_what_is_shown_of_the_shipped_bundle_explains_its_figures(preread: CommandRunner) -> None:
    ran = preread("bundle", "show")
    assert ran.exit_code == 0
    said = " ".join(ran.out.split())
    assert "images without the finding that look like images with it" in said
    assert "conflict normals: auc" in said
    assert "conflict normals: specificity" in said
    assert "conflict normals: sensitivity" not in said
    assert "conflict normals: accuracy" not in said
    assert "out of fold: sensitivity" in said
    assert "threshold of sensitivity, specificity and accuracy" in said
    point = bundles.load_bundle(bundles.find_bundle()).manifest.findings[0].operating_point
    band = f"'flagged' from {point.uncertain_high:.3f}, 'uncertain' in between, "
    assert f"{band}'not flagged' below {point.uncertain_low:.3f}" in said


def test_figures_by_finding_are_shown_as_headlines_with_ppv_and_npv(brightness_classifier: Any) -> None:
    of = {
        "out_of_fold": {"auc": {"value": 0.99, "low": 0.98, "high": None}},
        "subgroups": {"viral": {"auc": 0.5}},
        "sensitivity_lower_bound": 0.9678,
    }
    manifest = dataclasses.replace(brightness_classifier.bundle.manifest, metrics={"pneumonia": of})
    pairs = dict(bundle._manifest_pairs(manifest, "d" * 64))
    assert pairs["out of fold: auc"] == "0.99 (0.98 to undefined)"
    assert pairs["sensitivity lower bound"] == "0.9678"
    assert not [name for name in pairs if "subgroups" in name]
    assert "--card" in pairs["more figures"]
    assert pairs["  PPV and NPV"].startswith("at prevalences of 5 / 20 / 60 %, 32 /")


def test_a_missing_bundle_is_named_with_what_to_do(preread: CommandRunner, tmp_path: Path) -> None:
    for command in (["assess", "x.dcm"], ["bundle", "show"], ["bundle", "verify"]):
        ran = preread(*command, *(["--bundle"] if command[0] == "assess" else []), "no-such-bundle")
        assert ran.exit_code == 4, command
        assert "no-such-bundle" in ran.err
        assert "preread bundle list" in ran.err
        assert "Traceback" not in ran.err


def test_a_damaged_bundle_is_named_and_not_used(
    preread: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundles" / "b" / "1.0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "b"}')
    monkeypatch.setenv("PREREAD_BUNDLE", str(folder))
    for command in (["assess", "x.dcm"], ["bundle", "show"], ["bundle", "verify"]):
        ran = preread(*command)
        assert ran.exit_code == 4, command
        assert "manifest.json" in ran.err
        assert "bundle_damaged" in ran.err
    monkeypatch.setattr(bundles, "list_bundles", lambda added=None: [] if added else [folder])
    ran = preread("bundle", "list", "--json")
    assert ran.exit_code == 4
    assert [(record["whole"], record["in_use"]) for record in ran.records] == [(False, True)]


_DIFFERS = """
import sys
from preread.runner.child.main import main
from preread.core.errors import BundleMismatch

def load(setup):
    raise BundleMismatch("bundle x/1 differs from its golden vectors by 0.5 in logit on this machine")

sys.exit(main(load))
"""


def test_a_bundle_that_answers_otherwise_here_is_not_used(assess: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that would use it looks, before anything is read."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", _DIFFERS))
    ran = assess("x.dcm")
    assert ran.exit_code == 4
    assert "golden vectors" in ran.err
    assert ran.out == ""


# ---------------------------------------------------------------------- check


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, brightness_classifier: Any, tmp_path: Path, preread: CommandRunner) -> Any:
    """A machine on which the worker can start, but for its database."""
    monkeypatch.setattr(self_check, "load_checked", lambda path: (brightness_classifier, 0.0))
    monkeypatch.setenv("PREREAD_MIN_FREE_BYTES", "0")
    (tmp_path / "inbox").mkdir()
    return preread


def states(ran: Any) -> Any:
    return {record["what"].split()[0]: record["ok"] for record in ran.records}


def test_check_says_what_to_do_on_a_new_machine_and_then_that_the_worker_can_start(able: Any) -> None:
    ran = able("check", "--root", "inbox", "--json")
    assert ran.exit_code == 1
    assert [record["what"] for record in ran.records if not record["ok"]] == ["database"]
    (database,) = [record for record in ran.records if record["what"] == "database"]
    assert "preread db upgrade" in database["remedy"]
    assert able("db", "upgrade").exit_code == 0
    ran = able("check", "--root", "inbox", "--json")
    assert ran.exit_code == 0, ran.out
    assert all(states(ran).values())
    assert "the worker can start" in able("check", "--root", "inbox").err


@pytest.mark.parametrize("what, found", [("README.md", "is not an SQLite database"), ("inbox", "is a folder")])
def test_what_is_no_database_is_a_row_of_check_and_ends_the_others_with_2(
    able: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: Any, found: Any
) -> None:
    (tmp_path / "README.md").write_text("# A readme, no database\n" * 100)
    (tmp_path / "films").mkdir()
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{what}")
    ran = able("check", "--root", "films", "--json")
    assert ran.exit_code == 1
    (row,) = [record for record in ran.records if not record["ok"]]
    assert row["what"] == "database"
    assert found in row["found"]
    assert "PREREAD_DATABASE_URL" in row["remedy"]
    for command in (["results"], ["db", "check"], ["db", "upgrade"], ["explain", "x"]):
        ran = able(*command)
        assert (ran.exit_code, ran.out) == (2, ""), command
        assert found in ran.err
        assert "[database_unsuitable]" in ran.err
        assert "by itself" not in ran.err


def test_check_names_a_share_that_is_not_there(able: Any) -> None:
    able("db", "upgrade")
    ran = able("check", "--root", "inbox", "--root", "no-share", "--json")
    assert ran.exit_code == 1
    failed = [record for record in ran.records if not record["ok"]]
    assert [record["what"] for record in failed] == ["share no-share"]
    assert failed[0]["remedy"]


def test_check_tells_the_file_system_and_the_way_of_watching(able: Any) -> None:
    (share,) = [r for r in able("check", "--root", "inbox", "--json").records if r["what"] == "share inbox"]
    assert "events" in share["found"] or "polled" in share["found"]


def test_check_objects_without_any_folder(able: Any) -> None:
    ran = able("check", "--json")
    assert ran.exit_code == 1
    assert states(ran)["shares"] is False


def test_check_objects_to_a_disk_that_fills(able: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_MIN_FREE_BYTES", str(10**18))
    assert states(able("check", "--root", "inbox", "--json"))["disk"] is False


def test_check_goes_no_further_than_a_mistyped_setting(able: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREREAD_SLOTZ", "1")
    ran = able("check", "--json")
    assert ran.exit_code == 1
    assert states(ran) == {"versions": True, "settings": False}
    assert "PREREAD_SLOTS" in ran.records[-1]["found"]


def test_check_names_a_wrong_path_pattern(able: Any, tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text('[[roots]]\npath = "inbox"\npath_pattern = "{patient}.jpg"\n')
    ran = able("check", "--json")
    assert ran.exit_code == 1
    assert "{patient}" in next(record["found"] for record in ran.records if record["what"] == "shares")


def test_check_names_a_wrong_bundle(preread: CommandRunner, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "preread.toml").write_text('bundle = "no-such-bundle"\n[[roots]]\npath = "inbox"\n')
    ran = preread("check", "--json")
    assert states(ran)["bundle"] is False


# ---------------------------------------------------------------------- the door itself


def test_a_mistyped_setting_ends_every_command_with_its_nearest_match(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREREAD_DATABSE_URL", "sqlite:///x.db")
    for command in (["results"], ["run"], ["assess", "x"], ["db", "check"], ["bundle", "list"], ["explain", "x"]):
        ran = preread(*command)
        assert (ran.exit_code, ran.out) == (2, ""), command
        assert "PREREAD_DATABSE_URL; did you mean PREREAD_DATABASE_URL?" in ran.err
        assert "Traceback" not in ran.err


def test_a_population_needs_a_root_on_the_command_line(preread: CommandRunner, tmp_path: Path) -> None:
    (tmp_path / "preread.toml").write_text('[[roots]]\npath = "inbox"\n')
    ran = preread("run", "--population", "research")
    assert ran.exit_code == 2
    assert "--root" in ran.err


def test_run_without_a_folder_says_how_to_name_one(preread: CommandRunner) -> None:
    ran = preread("run")
    assert ran.exit_code == 2
    assert "PREREAD_ROOTS" in ran.err


# ---------------------------------------------------------------------- run


@pytest.fixture
def started(preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, brightness_classifier: Any, tmp_path: Path) -> Any:
    """What the daemon was started with; it ends at once."""
    calls = []

    def end_at_once(engine: Engine, bundles: Any, roots: Any, options: Any, environment: Any) -> Any:
        calls.append((bundles.active, roots, options))
        return 0

    monkeypatch.setattr(service, "run_service", end_at_once)
    monkeypatch.setattr(bundles, "find_bundle", lambda *_: tmp_path)
    monkeypatch.setattr(bundles, "load_bundle", lambda path: brightness_classifier.bundle)
    return calls


def test_run_hands_settings_and_roots_to_the_daemon(
    preread: CommandRunner, started: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREREAD_SLOTS", "3")
    monkeypatch.setenv("PREREAD_MAX_PIXELS", "5000")
    monkeypatch.setenv("PREREAD_ROOTS", str(tmp_path / "not-this"))
    ran = preread("run", "--once", "--root", "inbox", "--root", "other", "--population", "research")
    assert ran.exit_code == 0, ran.err
    ((bundle, roots, options),) = started
    assert bundle.label == "brightness/1.0.0"
    assert [(str(root.path), root.population) for root in roots] == [
        ("inbox", Population.RESEARCH),
        ("other", Population.RESEARCH),
    ]
    assert (options.once, options.slots, options.max_pixels) == (True, 3, 5000)


def test_run_makes_the_default_database_of_a_new_installation(
    preread: CommandRunner, started: Any, tmp_path: Path
) -> None:
    ran = preread("run", "--root", "inbox")
    assert ran.exit_code == 0
    assert "created the database" in ran.err
    assert preread("db", "check").exit_code == 0
    assert "created the database" not in preread("run", "--root", "inbox").err


def test_run_makes_no_database_that_was_named(
    preread: CommandRunner, started: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path / 'prered.db'}")
    ran = preread("run", "--root", "inbox")
    assert ran.exit_code == 2
    assert "preread db upgrade" in ran.err
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_run_takes_no_root_in_another(preread: CommandRunner, started: Any) -> None:
    ran = preread("run", "--root", "inbox", "--root", "inbox/today")
    assert ran.exit_code == 2
    assert "lies in" in ran.err
    assert started == []


def test_run_keeps_its_database_out_of_the_watched_folder(preread: CommandRunner, started: Any, tmp_path: Path) -> None:
    ran = preread("run", "--once", "--root", ".")
    assert ran.exit_code == 2
    assert "is in the watched folder" in ran.err
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_run_ends_with_the_exit_code_of_the_daemon(
    preread: CommandRunner, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "run_service", lambda *_, **__: 3)
    assert preread("run", "--once", "--root", "inbox").exit_code == 3


def test_an_unforeseen_failure_is_named_without_its_values(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Any) -> None:
        raise ZeroDivisionError("Mustermann^Erika")

    monkeypatch.setattr("preread.cli.context.load_settings", fail)
    ran = preread("results")
    assert ran.exit_code == 70
    assert "ZeroDivisionError" in ran.err
    assert "Mustermann" not in ran.err


@pytest.mark.parametrize(
    "words", [("version",), ("--version",), ("--version", "check"), ("--config", "no", "--version")]
)
def test_the_version_is_that_of_the_package(preread: CommandRunner, words: Any) -> None:
    ran = preread(*words)
    assert ran.exit_code == 0
    assert ran.out == f"preread {importlib.metadata.version('preread')}\n"
    assert ran.err == ""


def test_an_option_that_stands_before_the_command_is_sent_there(preread: CommandRunner) -> None:
    ran = preread("run", "--config", "site.toml")
    assert ran.exit_code == 2
    assert "No such option: --config" in ran.err
    assert "--config must stand before the command: preread --config ... run" in ran.err
    assert "must stand before" not in preread("run", "--nonsense").err
    assert "must stand before" not in preread("--config", "missing.toml", "run").err


def test_a_shell_completes_the_commands(preread: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PREREAD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "preread recon")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert preread().out.split() == ["reconcile"]


@pytest.mark.parametrize("program", [["-m", "preread"], ["-m", "preread_training"]])
def test_every_program_prints_its_version(program: Any) -> None:
    command = [sys.executable, *program, "--version"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ran.stdout == f"preread {importlib.metadata.version('preread')}\n"
    assert ran.stderr == ""


def test_json_records_hold_no_naked_control_character(assess: Any, tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "a\nb.jpg").write_bytes(jpeg())
    ran = assess(".", "--json")
    assert len(ran.out.splitlines()) == 1
    assert json.loads(ran.out)["path"].endswith("a\nb.jpg")


def test_a_vocabulary_file_of_the_site_is_used_and_a_bad_one_is_named(assess: Any, tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(phantoms.to_dicom(phantoms.draw_chest(1), BodyPartExamined="MELLKAS"))
    (record,) = assess("film.dcm", "--json").records
    assert (record["outcome"], record["code"]) == ("refused", "body_part")
    assert record["caveats"] == ["body_part_not_understood"]
    assert record["tags"]["body_part"] == {"state": "not_understood", "value": None, "written": "MELLKAS"}
    (tmp_path / "words.toml").write_text('[part.CHEST]\nwords = ["mellkas"]\n')
    (tmp_path / "preread.toml").write_text('vocabulary_file = "words.toml"\n')
    (record,) = assess("film.dcm", "--json").records
    assert (record["outcome"], record["caveats"]) == ("assessed", [])
    assert record["tags"]["body_part"] == {"state": "understood", "value": "CHEST", "written": "MELLKAS"}
    assert {tag["state"] for tag in record["tags"].values()} == {"understood", "absent"}
    (tmp_path / "words.toml").write_text("[part.CHEST]\nword = 1\n")
    ran = assess("film.dcm")
    assert ran.exit_code == 2
    assert "words.toml" in ran.err
    assert "part.CHEST.word" in ran.err
