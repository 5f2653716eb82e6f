"""What people read: never a word for health, never a probability alone, never a steered terminal."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from preread.cli import output, roots
from preread.cli.app import LevelName
from preread.cli.messages import print_message
from preread.cli.progress import progress
from preread.cli.results import parse_time
from preread.core.errors import UsageError
from preread.core.settings import LogLevel
from preread.core.text import wording
from preread.core.types import CAVEAT_TEXT, Answer, Caveat, Finding, Population
from preread.model.calibration import compute_predictive_values


def finding(answer: Any = Answer.NOT_FLAGGED, probability: Any = 0.02) -> Any:
    return Finding("pneumonia", -3.0, probability, 0.25, answer)


def test_the_answers_in_words() -> None:
    assert wording.format_answer(Answer.FLAGGED, "pneumonia") == "pneumonia flagged"
    assert wording.format_answer(Answer.UNCERTAIN, "pneumonia") == "pneumonia uncertain"
    assert wording.format_answer(Answer.NOT_FLAGGED, "pneumonia") == "pneumonia not flagged; this excludes no disease"


@pytest.mark.parametrize("answer", list(Answer))
def test_no_answer_uses_a_word_for_health(answer: Any) -> None:
    said = wording.format_finding(finding(answer)).lower()
    for word in ("normal", "negative", "clear", "no finding", "healthy"):
        assert word not in said


def test_a_probability_stands_with_its_prevalence() -> None:
    assert wording.format_finding(finding()).endswith("(2.0 % at prevalence 25 %)")


@pytest.mark.parametrize("answer", list(Answer))
def test_every_answer_names_its_finding_first(answer: Any) -> None:
    assert wording.format_finding(finding(answer)).startswith(f"pneumonia {answer.value.replace('_', ' ')}")


@pytest.mark.parametrize(
    "share, said",
    [(0.0, "0 %"), (1e-9, "below 0.1 %"), (0.999_999, "above 99.9 %"), (0.5, "50 %"), (0.034, "3.4 %"), (1.0, "100 %")],
)
def test_no_share_is_rounded_to_a_certainty(share: Any, said: Any) -> None:
    assert wording.format_percent(share) == said


def test_every_caveat_has_words() -> None:
    assert set(CAVEAT_TEXT) == set(Caveat)
    notes = wording.caveat_notes([Caveat.NO_TAGS, Caveat.AGE_ASSUMED, Caveat.NO_TAGS])
    assert [note.partition(": ")[0] for note in notes] == ["age_assumed", "no_tags"]
    assert wording.caveat_codes([Caveat.NO_TAGS, Caveat.AGE_ASSUMED]) == "no_tags, age_assumed"


def test_the_words_of_the_options_are_those_of_the_enums() -> None:
    assert get_args(roots.PopulationName) == tuple(population.value for population in Population)
    assert get_args(LevelName) == tuple(level.value for level in LogLevel)


def test_a_table_takes_markup_and_escapes_as_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("file", "name"), [("[red]x[/red].dcm", "\x1b]0;owned\x07\u202e^E[/]")])
    printed = capsys.readouterr().out
    assert "[red]x[/red].dcm" in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert r"\x1b]0;owned\x07\u202e^E[/]" in printed
    assert printed.strip().endswith(wording.NO_DEVICE)


@pytest.mark.parametrize("width", [40, 80, 110])
def test_a_narrow_terminal_folds_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: Any
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    cells = ("number", "A" * 50, "B" * 90, "C" * 30, "D" * 120)
    output.print_table(("id", "file", "patient", "says", "caveats"), [cells])
    printed = capsys.readouterr().out
    for letter, cell in zip("ABCD", cells[1:], strict=True):
        assert printed.count(letter) == len(cell) + wording.NO_DEVICE.count(letter)
    assert max(map(len, printed.splitlines())) <= width


def test_json_is_one_ascii_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": "a\nb\x1b\u202e\u00e9"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert json.loads(printed) == {"name": "a\nb\x1b\u202e\u00e9"}


class Terminal(io.StringIO):
    def isatty(self) -> Any:
        return True


def test_a_bar_is_shown_on_a_terminal_and_data_stays_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    err, out = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    with progress("assessing", lambda: 2, printing=True) as step:
        output.print_json({"path": "a"})
        step()
        print_message("b: is gone")
        step()
    assert "assessing" in err.getvalue()
    assert "b: is gone" in err.getvalue()
    assert out.getvalue() == '{"path": "a"}\n'


@pytest.mark.parametrize(
    "make_err, make_out", [(io.StringIO, io.StringIO), (io.StringIO, Terminal), (Terminal, Terminal)]
)
def test_no_bar_in_a_pipe_or_between_printed_records(
    monkeypatch: pytest.MonkeyPatch, make_err: type[io.StringIO], make_out: type[io.StringIO]
) -> None:
    err = make_err()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", make_out())
    with progress("assessing", lambda: pytest.fail("nobody needs the count"), printing=True) as step:
        step()
    assert err.getvalue() == ""


NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text, ago",
    [
        ("90s", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        (" 3D ", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
        ("15 min", timedelta(minutes=15)),
    ],
)
def test_a_duration_counts_back_from_now(text: Any, ago: Any) -> None:
    assert parse_time(text, NOW) == NOW - ago


def test_a_time_with_an_offset_is_that_time() -> None:
    assert parse_time("2026-03-31T14:00+02:00", NOW) == NOW


def test_a_time_without_an_offset_is_local() -> None:
    assert parse_time("2026-03-31", NOW) == datetime(2026, 3, 31).astimezone()


@pytest.mark.parametrize("text", ["", "yesterday", "2", "h", "-2h", "999999w", "2026-13-01", "2026-03-31T25:00"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="invalid time"):
        parse_time(text, NOW)


def test_predictive_values_are_said_without_a_word_for_health_or_a_certainty() -> None:
    values = compute_predictive_values((0.9, 1e-9), (1e-9, 0.9))
    said = wording.format_predictive_values(values)
    assert said.startswith("at prevalences of 5 / 20 / 60 %, above 99.9 / above 99.9 /")
    for word in ("normal", "negative", "clear", "healthy", "100 %"):
        assert word not in said


def test_what_answers_are_worth_is_said_once_for_each_bundle() -> None:
    stated = replace(finding(), predictive_values=compute_predictive_values((0.9, 0.1), (0.1, 0.9)))
    lines = wording.predictive_value_notes([("b/2", stated), ("b/1", finding()), ("b/2", stated)])
    assert lines[0] == "pneumonia (b/1): this bundle states no PPV and NPV"
    assert lines[1].startswith("pneumonia (b/2): at prevalences of 5 /")
    assert len(lines) == 2
