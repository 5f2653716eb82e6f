"""`preread results`, `results show`, `explain` and `db` on a real database that the ledger's verbs filled."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from preread.core.errors import TruncatedPixels
from preread.core.text.wording import NO_DEVICE
from preread.core.types import CAVEAT_TEXT, Answer, Caveat, Finding, Identity, Population, RefusalCode
from preread.db.engine import open_engine
from preread.db.review_schema import audit, listing
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation
from tests.support.commands import CommandRunner
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable

STATED = [
    {"prevalence": 0.05, "ppv": 0.36, "npv": 0.9995},
    {"prevalence": 0.2, "ppv": 0.73, "npv": 0.994},
    {"prevalence": 0.6, "ppv": 0.941, "npv": 0.96},
]
ESCAPES = "\x1b]0;owned\x07\x1b[2J"
HOSTILE = Identity(
    patient_name="=HYPERLINK(1)^[red]Eve[/red]\u202e" + ESCAPES,
    patient_id="PAT-1",
    accession_number="+4711",
    acquisition_date_time="20260331101500",
    modality="DX",
)
QUIET = Identity(patient_id="PAT-2", accession_number="A2", acquisition_date_time="20200101080000")


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, migrated_sqlite: Path) -> Any:
    path = tmp_path / "preread.db"
    shutil.copy(migrated_sqlite, path)
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{path}")
    return f"sqlite:///{path}"


def finding(answer: Any, probability: Any) -> Any:
    return Finding("pneumonia", 1.5, probability, 0.25, answer)


def content(answer: Any = Answer.FLAGGED, probability: Any = 0.87) -> Any:
    return ContentAssessment((finding(answer, probability),), (Caveat.LOSSY,), "test 1", np.zeros((7, 7), np.float32))


@pytest.fixture
def filled(database: Any, tmp_path: Path) -> Any:
    """Five files of one root: flagged, not flagged, refused, unreadable, and one that still settles."""
    engine = open_engine(database)
    ledger = Ledger(engine, worker_id="test", lease_s=60)
    ledger.heartbeat()
    root = tmp_path / "inbox"
    root_id = ledger.register_root(bytes(root), population=Population.CHILDREN_1_5Y)
    manifest = json.dumps({"findings": [{"finding": "pneumonia", "predictive_values": STATED}]})
    bundle_id = ledger.register_bundle(name="test", version="1.0.0", digest="d" * 64, manifest=manifest)
    names = {
        "flagged": b"a[bold]\x1b[2J.dcm",
        "not_flagged": b"caf\xe9\\b.dcm",
        "refused": b"knee.dcm",
        "unreadable": b"broken.dcm",
    }
    seen = [Observation(name, 100 + number, 1_000 + number) for number, name in enumerate(names.values())]
    ledger.settle(ledger.observe(root_id, seen).values())
    ledger.observe(root_id, [Observation(b"new.dcm", 5, 5)])
    claims = {claim.path: claim for claim in ledger.claim([root_id], 10)}

    def facts(number: Any, identity: Any = QUIET, caveats: Any = ()) -> Any:
        return FileFacts(
            sha256=f"{number:064x}",
            identity=identity,
            format="DICOM",
            rows=10,
            columns=12,
            population=Population.CHILDREN_1_5Y,
            gate_caveats=caveats,
            ms=12.5,
        )

    assert commit_assessed(
        ledger, claims[names["flagged"]], facts(1, HOSTILE, (Caveat.AGE_DECLARED,)), bundle_id, content()
    )
    assert commit_assessed(
        ledger, claims[names["not_flagged"]], facts(2), bundle_id, content(Answer.NOT_FLAGGED, 0.0004)
    )
    assert commit_refused(ledger, claims[names["refused"]], facts(3), bundle_id, RefusalCode.BODY_PART, "it shows KNEE")
    assert commit_unreadable(ledger, claims[names["unreadable"]], TruncatedPixels(), facts(4))
    engine.dispose()
    return root


def test_the_table_says_answers_in_words_and_ends_with_what_preread_is_not(preread: CommandRunner, filled: Any) -> None:
    ran = preread("results")
    assert ran.exit_code == 0
    flat = " ".join(ran.out.split())
    assert "pneumonia flagged (87 % at prevalence 25 %)" in flat
    assert "pneumonia not flagged; this excludes no disease (below 0.1 % at prevalence 25 %)" in flat
    assert "refused: body_part: it shows KNEE" in flat
    assert CAVEAT_TEXT[Caveat.AGE_DECLARED].split(";")[0] in flat
    assert "declared children-1-5y" in flat
    assert ran.out.rstrip().endswith(NO_DEVICE)


def test_ppv_and_npv_stand_beside_every_probability(preread: CommandRunner, filled: Any) -> None:
    said = "at prevalences of 5 / 20 / 60 %, 36 / 73 / 94.1 % of the flagged images have it (PPV), "
    said += "and above 99.9 / 99.4 / 96.0 % of the images not flagged do not (NPV)"
    assert f"pneumonia (test/1.0.0): {said}" in " ".join(preread("results").out.split())
    assert said in " ".join(preread("results", "show", "1").out.split())
    flagged = list(csv.DictReader(io.StringIO(preread("results", "--csv").out)))[-1]
    assert [flagged[name] for name in ("ppv_at_5", "npv_at_20", "ppv_at_60")] == ["0.36", "0.994", "0.941"]
    (record,) = preread("results", "show", "1", "--json").records
    assert record["findings"][0]["predictive_values"] == STATED


def test_no_name_or_tag_steers_the_terminal(preread: CommandRunner, filled: Any) -> None:
    for arguments in (["results"], ["results", "show", "1"], ["results", "--csv"], ["results", "--json"]):
        ran = preread(*arguments)
        assert ran.exit_code == 0, ran.err
        assert "\x1b" not in ran.out
        assert "\x07" not in ran.out
        assert "\u202e" not in ran.out
    assert "[bold]" in preread("results").out


def test_json_lines_hold_what_assess_prints_and_more(preread: CommandRunner, filled: Any) -> None:
    records = preread("results", "--json").records
    assert [record["outcome"] for record in records] == ["unreadable", "refused", "assessed", "assessed"]
    flagged = records[-1]
    assert flagged["findings"] == [
        {
            "finding": "pneumonia",
            "probability": 0.87,
            "prevalence": 0.25,
            "answer": "flagged",
            "predictive_values": STATED,
        }
    ]
    assert flagged["caveats"] == ["age_declared", "lossy"]
    assert flagged["bundle"] == "test/1.0.0"
    assert flagged["population"] == "children-1-5y"
    assert flagged["identity"]["patient_id"] == "PAT-1"
    assert records[0]["code"] == "truncated"


def test_a_name_that_is_not_utf8_can_be_had_back(preread: CommandRunner, filled: Any) -> None:
    (record,) = preread("results", "--json", "--answer", "not_flagged").records
    assert record["path"] == "caf\\xe9\\\\b.dcm"


def test_csv_has_one_row_a_finding_and_no_formula(preread: CommandRunner, filled: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(preread("results", "--csv").out)))
    assert len(rows) == 4
    flagged = rows[-1]
    assert flagged["patient_name"].startswith("'=HYPERLINK")
    assert flagged["accession_number"] == "'+4711"
    assert (flagged["answer"], flagged["probability"], flagged["prevalence"]) == ("flagged", "0.87", "0.25")
    assert rows[1]["finding"] == ""


@pytest.mark.parametrize(
    "arguments, codes",
    [
        (["--answer", "flagged"], [None]),
        (["--answer", "uncertain"], []),
        (["--outcome", "refused"], ["body_part"]),
        (["--code", "truncated"], ["truncated"]),
        (["--accession", "+4711"], [None]),
        (["--acquired-since", "2026-03-31"], [None]),
        (["--acquired-since", "2026-04-01"], []),
        (["--since", "1h", "--limit", "2"], ["truncated", "body_part"]),
        (["--since", "2999-01-01"], []),
    ],
)
def test_filters(preread: CommandRunner, filled: Any, arguments: Any, codes: Any) -> None:
    ran = preread("results", "--json", *arguments)
    assert ran.exit_code == 0, ran.err
    assert [record["code"] for record in ran.records] == codes


def test_a_patient_is_named_on_standard_input_only(preread: CommandRunner, filled: Any) -> None:
    ran = preread("results", "--json", "--patient", "-", stdin="PAT-1\n")
    assert [record["identity"]["patient_id"] for record in ran.records] == ["PAT-1"]
    ran = preread("results", "--patient", "PAT-1")
    assert ran.exit_code == 2
    assert "shell's history" in ran.err
    assert ran.out == ""
    ran = preread("results", "--patient", "-", stdin="")
    assert ran.exit_code == 2


def test_an_accession_number_is_named_on_standard_input(preread: CommandRunner, filled: Any) -> None:
    ran = preread("results", "--json", "--accession", "-", stdin="+4711\n")
    assert [record["code"] for record in ran.records] == [None]
    assert "list of processes" not in ran.err
    both = preread("results", "--json", "--patient", "-", "--accession", "-", stdin="PAT-1\n+4711\n")
    assert [record["identity"]["patient_id"] for record in both.records] == ["PAT-1"]
    assert preread("results", "--json", "--patient", "-", "--accession", "-", stdin="PAT-2\n+4711\n").records == []
    # as version 0.1.0 took it, for one more version
    ran = preread("results", "--json", "--accession", "+4711")
    assert [record["code"] for record in ran.records] == [None]
    assert "list of processes" in ran.err
    assert preread("results", "--accession", "-", stdin="\n").exit_code == 2


def test_a_shortened_table_says_so(preread: CommandRunner, filled: Any) -> None:
    ran = preread("results", "--limit", "2")
    assert "these are the newest 2" in ran.err
    assert "these are" not in preread("results", "--limit", "0").err


def test_nothing_matching_is_said_and_is_no_failure(preread: CommandRunner, filled: Any) -> None:
    ran = preread("results", "--accession", "none such")
    assert (ran.exit_code, ran.out) == (0, "")
    assert "no result matches" in ran.err


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--since", "lately"], "lately"),
        (["--json", "--csv"], "cannot be combined"),
        (["--answer", "positive"], "positive"),
        (["show", "999"], "999"),
        (["show", "9" * 30], "9223372036854775807"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_message(
    preread: CommandRunner, filled: Any, arguments: Any, word: Any
) -> None:
    ran = preread("results", *arguments)
    assert ran.exit_code == 2
    assert word in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_show_tells_one_result_in_full(preread: CommandRunner, filled: Any) -> None:
    (record,) = preread("results", "--json", "--answer", "flagged").records
    ran = preread("results", "show", str(record["id"]))
    flat = " ".join(ran.out.split())
    for part in (
        "pneumonia flagged (87 % at prevalence 25 %)",
        "PAT-1",
        "10 rows x 12 columns",
        "test/1.0.0",
        NO_DEVICE,
    ):
        assert part in flat
    (detail,) = preread("results", "show", str(record["id"]), "--json").records
    assert [move["to"] for move in detail["history"]["transitions"]][-1] == "done"


def test_explain_says_why_in_one_sentence_with_the_history(preread: CommandRunner, filled: Any) -> None:
    ran = preread("explain", str(filled / "broken.dcm"))
    assert ran.exit_code == 0
    assert ran.out.startswith("It could not be read and was quarantined: truncated")
    assert "quarantined" in ran.out
    assert "waits until it no longer changes" in preread("explain", str(filled / "new.dcm")).out
    (record,) = preread("explain", "--json", str(filled / "knee.dcm")).records
    assert record["sentence"].startswith("It was refused: body_part")


def test_explain_takes_a_path_relative_to_where_one_stands(preread: CommandRunner, filled: Any) -> None:
    assert preread("explain", "inbox/knee.dcm").exit_code == 0


def test_explain_of_an_unknown_path_says_what_is_there(preread: CommandRunner, filled: Any, tmp_path: Path) -> None:
    ran = preread("explain", str(tmp_path / "elsewhere.dcm"))
    assert (ran.exit_code, ran.out) == (1, "")
    assert "No watched folder of this database knows" in ran.err
    assert "cannot be accessed" in ran.err
    assert "in none of the 1 watched folders of the settings and of this" in ran.err


@pytest.mark.parametrize("through", ["inbox", "link"])
def test_explain_of_a_file_in_a_root_that_only_the_database_knows(
    preread: CommandRunner, filled: Any, tmp_path: Path, through: Any
) -> None:
    """A worker was started with `--root`: the settings name no folder."""
    (tmp_path / "link").symlink_to(filled)
    filled.mkdir(exist_ok=True)
    ran = preread("explain", f"{through}/nope.dcm")
    assert (ran.exit_code, ran.out) == (1, "")
    assert f"It is in the watched folder {filled}; no scan has seen it yet" in ran.err
    assert "none of the" not in ran.err


@pytest.mark.parametrize(
    "name, why",
    [("new.dcm", "no scan has seen it yet"), (".trash/x.dcm", "begins with a dot"), ("x.part", "still being")],
)
def test_explain_of_a_file_that_no_scan_met_says_in_which_root_it_lies(
    preread: CommandRunner, filled: Any, tmp_path: Path, name: Any, why: Any
) -> None:
    (tmp_path / "preread.toml").write_text('[[roots]]\npath = "other"\n')
    path = tmp_path / "other" / name
    path.parent.mkdir(parents=True)
    path.touch()
    ran = preread("explain", str(path))
    assert ran.exit_code == 1
    assert "It exists. It is in the watched folder other" in ran.err
    assert why in ran.err


def test_explain_of_a_file_that_a_rule_leaves_out_gives_the_rule_in_words(
    preread: CommandRunner, filled: Any, database: Any
) -> None:
    engine = open_engine(database)
    ledger = Ledger(engine, worker_id="test", lease_s=60)
    ledger.record_ignored(1, [Observation(b"pipe", 0, 1)], "not_regular")
    engine.dispose()
    ran = preread("explain", str(filled / "pipe"))
    assert ran.exit_code == 0
    assert ran.out.startswith("It has no result: it is a pipe, socket or device, not a file (rule not_regular).")


# ---------------------------------------------------------------------- the database itself


def test_a_new_database_is_made_by_upgrade_and_then_fits(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    for command in (["db", "check"], ["results"]):
        ran = preread(*command)
        assert ran.exit_code == 2
        assert "preread db upgrade" in ran.err
        assert not (tmp_path / "new.db").exists()
    assert preread("db", "upgrade").exit_code == 0
    assert preread("db", "upgrade").exit_code == 0
    assert preread("db", "check").exit_code == 0
    assert preread("results").exit_code == 0


def test_a_database_newer_than_the_program_is_named(preread: CommandRunner, database: Any) -> None:
    engine = open_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    for command in (["results"], ["db", "check"], ["db", "upgrade"], ["explain", "x"]):
        ran = preread(*command)
        assert ran.exit_code == 2, command
        assert "newer version" in ran.err
        assert "schema_too_new" in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite://"])
def test_a_database_that_cannot_be_meant_is_named(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, url: Any
) -> None:
    monkeypatch.setenv("PREREAD_DATABASE_URL", url)
    ran = preread("results")
    assert ran.exit_code == 2
    assert "Traceback" not in ran.err


def test_a_postgres_that_is_away_is_named_without_its_password(
    preread: CommandRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("preread.db.engine._FIRST_PAUSE_S", 0.0)
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"postgresql://preread:geheim@/preread?host={tmp_path}")
    ran = preread("results")
    assert ran.exit_code == 3
    assert "database_away" in ran.err
    assert "geheim" not in ran.err


def test_times_are_local_for_people_and_utc_for_programs(preread: CommandRunner, filled: Any) -> None:
    (record,) = preread("results", "--json", "--answer", "flagged").records
    assert record["committed_at"].endswith("Z")
    local = datetime.fromisoformat(record["committed_at"]).astimezone()
    assert f"{local:%Y-%m-%d}" in preread("results").out


def test_what_the_shell_showed_is_on_record(preread: CommandRunner, filled: Any, database: Any) -> None:
    def on_record() -> Any:
        engine = open_engine(database)
        with engine.connect() as connection:
            listed = connection.execute(select(listing.c.file_id, listing.c.actor)).all()
            opened = connection.execute(select(audit.c.object, audit.c.action).where(audit.c.action != "key")).all()
        engine.dispose()
        assert {row.actor for row in listed} <= {f"uid:{os.getuid()}"}
        return sorted(row.file_id for row in listed), [tuple(row) for row in opened]

    preread("results", "--answer", "flagged")
    assert on_record() == ([1], [])
    for kind in ("--json", "--csv", "--limit=0"):
        assert preread("results", kind).exit_code == 0
        assert on_record() == ([1, 2, 3, 4], [])
    preread("results", "show", "2")
    assert on_record()[1] == [("film:2", "view")]


def test_a_narrow_terminal_gets_a_few_lines_an_image_and_no_table(
    preread: CommandRunner, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = preread("results")
    assert ran.exit_code == 0
    films, notes = ran.out.split("\n\n")
    lines = films.splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == 4
    assert len(lines) <= 3 * 4, films
    assert all(len(line) <= 80 and line == line.rstrip() for line in ran.out.splitlines())
    assert "  pneumonia flagged (87 % at prevalence 25 %) [declared children-1-5y;" in films
    assert "PAT-1 / +4711" in films
    assert " ".join(notes.split()).endswith(NO_DEVICE)
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("words", [("results",), ("results", "show", "1"), ("bundle", "show")])
def test_a_pipe_gets_no_trailing_blanks(preread: CommandRunner, filled: Any, words: Any) -> None:
    ran = preread(*words)
    assert ran.exit_code == 0
    assert [line for line in ran.out.splitlines() if line != line.rstrip()] == []
    assert max(map(len, ran.out.splitlines())) < 1000
