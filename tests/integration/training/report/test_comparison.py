"""The comparison: systems fitted under one protocol, rows kept one by one, and the page that is made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from preread.core.errors import UsageError
from preread.core.types import JSONObject
from preread_training.cli.app import app
from preread_training.reference.systems import REFERENCES
from preread_training.report import comparison
from preread_training.report.comparison_page import draw_comparison, format_page, format_table, write_comparison
from tests.support.training_images import write_data_set

pytestmark = pytest.mark.usefixtures("deterministic_tensorflow")

FILMS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("films"), FILMS)


def _run(*arguments: str | Path | float) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _compare(data: Path, runs: Path, *more: str | Path | float) -> str:
    return _run("compare", "--data", data, "--runs", runs, "--folds", 2, "--steps-per-epoch", 1, *more)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three systems, fitted by two commands into one comparison."""
    folder = tmp_path_factory.mktemp("runs")
    _compare(data, folder, "--recipe", "E1")
    _compare(data, folder, "--recipe", "L2", "--recipe", "A1", "--void-minutes", 0)
    return folder


def _row(name: str, **changes: object) -> JSONObject:
    """What a comparison keeps of a system, with figures of its own."""
    measured = {
        key: {"value": 0.9, "low": 0.85, "high": 0.95}
        for key in ("auc", "accuracy", "sensitivity", "specificity", "auc_conflict_normals")
    }
    protocol = {
        "digest": "d" * 64,
        "seed": 3,
        "folds": 5,
        "films_fitted": 4172,
        "patients_fitted": 2000,
        "films_held_out": 1044,
        "with_finding_held_out": 775,
        "patients_held_out": 500,
        "conflict_normals_held_out": 28,
    }
    return {
        **asdict(REFERENCES[name]),
        "protocol": protocol,
        "environment": {"threads": 1},
        "minutes_allowed": 15.0,
        "epochs_meant": 20,
        "epochs": 4.25,
        "ended": "time",
        "seconds_per_epoch": 12.34,
        "measured": measured,
        **changes,
    }


# --------------------------------------------------------------------------- fitting


def test_every_system_has_a_row_beside_the_baselines(runs: Path) -> None:
    rows = comparison.read_rows(runs)
    assert [row["name"] for row in rows] == ["A1", "E1", "L2", *comparison.BASELINES]
    assert all(row["measured"]["auc"]["value"] is not None for row in rows)
    held = rows[0]["protocol"]
    assert held["films_held_out"] + held["films_fitted"] == 2 * FILMS


def test_a_row_says_how_far_the_fit_came(runs: Path) -> None:
    rows = {row["name"]: row for row in comparison.read_rows(runs)}
    assert (rows["E1"]["epochs"], rows["E1"]["epochs_meant"], rows["E1"]["ended"]) == (100, 100, "done")
    assert rows["E1"]["parameters"] == 131_089
    assert rows["E1"]["seconds_per_epoch"] > 0
    assert (rows["L2"]["epochs"], rows["L2"]["ended"], rows["L2"]["minutes_allowed"]) == (0, "time", 0)
    assert rows["A1"]["ended"] == "done"  # its number is not void, so it had the whole time


def test_calling_every_film_pneumonia_is_worth_its_share(runs: Path) -> None:
    always = next(row for row in comparison.read_rows(runs) if row["name"] == "always")["measured"]
    assert always["auc"]["value"] == 0.5
    assert (always["sensitivity"]["value"], always["specificity"]["value"]) == (1.0, 0.0)
    assert always["accuracy"]["value"] == 0.5


def test_what_is_there_is_not_fitted_again(data: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preread_training.fit import cross_validation

    monkeypatch.setattr(cross_validation, "fit_run", None)  # a new fit would call it
    assert "| E1 |" in _compare(data, runs, "--recipe", "E1", "--recipe", "L2")


def test_the_table_needs_no_films(runs: Path, tmp_path: Path) -> None:
    printed = _run("compare", "--runs", runs, "--out", tmp_path / "docs")
    written = (tmp_path / "docs" / "compare.md").read_text()
    assert printed in written
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"compare.md", "compare.json", "compare.svg"}
    kept = json.loads((tmp_path / "docs" / "compare.json").read_text())
    assert kept["rows"] == comparison.read_rows(runs)


def test_the_page_is_written_without_tensorflow(runs: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from preread_training.report import comparison, comparison_page\n"
        "comparison_page.write_comparison(comparison.read_rows(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print({'keras', 'tensorflow'} & {*sys.modules})"
    )
    command: list[str | Path] = [sys.executable, "-c", program, runs, tmp_path]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "set()"


def test_a_run_of_ones_own_has_a_row(data: Path, runs: Path, tmp_path: Path) -> None:
    printed = _compare(data, tmp_path, "--recipe", "E1", "--own", runs / "E1", "--minutes", 0)
    assert "| product |" in printed


def test_a_run_on_other_folds_has_none(data: Path, runs: Path, tmp_path: Path) -> None:
    arguments: list[str] = [
        "compare",
        "--data",
        str(data),
        "--runs",
        str(tmp_path),
        "--folds",
        "3",
        "--own",
        str(runs / "E1"),
    ]
    with pytest.raises(UsageError, match="another data set or other folds"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_fit_that_fails_is_a_row_and_the_next_system_has_its_turn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preread_training.fit import cross_validation
    from preread_training.fit.callbacks import FittingFailed

    asked: list[str] = []

    def fail(trainer: Any, *_: object, **__: object) -> None:
        asked.append(trainer.recipe.name)
        raise FittingFailed("the loss became nan at step 3")

    monkeypatch.setattr(cross_validation, "fit_run", fail)
    printed = _compare(data, tmp_path, "--recipe", "K1", "--recipe", "K2")
    assert asked == ["K1", "K2"]
    assert printed.count("the fit failed: the loss became nan at step 3") == 2
    _compare(data, tmp_path, "--recipe", "K1")
    assert asked == ["K1", "K2"]


def test_an_unknown_system_is_named(data: Path, tmp_path: Path) -> None:
    arguments: list[str] = ["compare", "--data", str(data), "--runs", str(tmp_path), "--recipe", "B1"]
    with pytest.raises(UsageError, match="no recipe 'B1': choose one of default"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_system_is_fitted_by_name_and_cannot_be_published(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shared = ("--data", data, "--run", run, "--folds", 2)
    _run("fit", *shared, "--recipe", "A5", "--steps-per-epoch", 1, "--minutes", 0.05, "--only", 0)
    record = json.loads((run / "record.json").read_text())
    assert record["recipe"]["layers"] == REFERENCES["A5"].layers
    assert np.isfinite(np.load(run / "fold-0" / "logits.npz")["logits"]).all()
    arguments: list[str] = [
        "publish",
        "--data",
        str(data),
        "--run",
        str(run),
        "--folds",
        "2",
        "--version",
        "1.0.0",
    ]
    with pytest.raises(UsageError, match="A5 is a reference system"):
        CliRunner().invoke(app, [*arguments, "--into", str(tmp_path)], catch_exceptions=False)


# --------------------------------------------------------------------------- rows


def test_rows_of_different_films_are_not_put_into_one_table(tmp_path: Path) -> None:
    for name in ("A1", "A5"):
        (tmp_path / name).mkdir()
        row = _row(name)
        row["protocol"]["seed"] = len(name) + (name == "A5")
        (tmp_path / name / comparison.ROW_FILE).write_text(json.dumps(row))
    with pytest.raises(UsageError, match="A5 and A1 were measured on different images"):
        comparison.read_rows(tmp_path)


def test_a_folder_without_rows_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished row"):
        comparison.read_rows(tmp_path)


# --------------------------------------------------------------------------- the page


def test_a_line_of_the_table_says_what_was_reported_and_what_is_so() -> None:
    line = format_table([_row("A5")]).splitlines()[2]
    assert line == (
        "| A5 | CNN of three convolutions, 100 px | test .97 (.947 in the stored run) | accuracy on training images: "
        "the test generator read the training folder | 0.900 (0.850 to 0.950) | 0.900 | 0.900 | 0.900 | "
        "0.900 (0.850 to 0.950) | 12.3 | 4.25 of 20, time over | 445,537 |"
    )


def test_the_page_says_what_was_mended_and_which_command_makes_it() -> None:
    rows = [_row("A5"), _row("L1", minutes_allowed=5.0, ended="done"), _row("K3", imagenet=False)]
    text = format_page(rows)
    assert "| A5 | F1: measured on images kept out of the fit |" in text
    assert "--folds 5 --seed 3 --minutes 15 --void-minutes 5 --threads 1" in text
    assert "here without ImageNet weights" in text
    assert "28 of them" in text
    assert max(map(len, (line for line in text.splitlines() if not line.startswith(("|", "Digest"))))) <= 120


def test_a_candidate_that_was_chosen_is_told() -> None:
    row = _row("E4", layers="C32-3t A F D512", epochs_meant=7)
    assert "; chosen C32-3t A F D512, 7 epochs |" in format_table([row])


def test_the_figure_has_a_mark_for_every_number_there_is(tmp_path: Path) -> None:
    failed = _row("K3", measured=None, failed="the loss became nan")
    rows = [_row("A5"), _row("A7w"), failed]
    left, right = draw_comparison(rows).axes
    marks = [line for line in left.lines if line.get_marker() == "o"]
    assert sorted(float(np.asarray(mark.get_xdata())[0]) for mark in marks) == pytest.approx([0.9, 0.9, 0.9042, 0.9712])
    assert len([line for line in right.lines if line.get_marker() in {"o", "D"}]) == 4
    write_comparison(rows, tmp_path / "a")
    write_comparison(rows, tmp_path / "b")
    assert (tmp_path / "a" / "compare.svg").read_bytes() == (tmp_path / "b" / "compare.svg").read_bytes()
