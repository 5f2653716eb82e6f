"""Whatever a film, its name or its folder says of itself: no command's output steers a terminal, a sheet or a page."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from preread.cli import self_check
from preread.cli.app import app
from preread.core.errors import FileLocked, ShareDown, SlotCrashed, TruncatedPixels
from preread.core.types import Answer, Caveat, FileState, Finding, Identity, Population, RefusalCode
from preread.db.engine import open_engine
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation
from tests.support.commands import CommandRunner
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable
from tests.test_house import commands

# Clears the screen, retitles the window, rings, reorders, breaks lines, looks like markup, a formula, a page's script.
NASTY = "\x1b[2J\x1b]0;pwned\x07[bold]\u202e<script>alert(1)</script>[/x]{x}%s\r\n\x9b31m\u2028"
FORMULA = "=cmd|' /C calc'!A0"
NAME = NASTY.replace("/", "|").encode() + b"\xff.dcm"
# What each command is called with; a command that shows nothing a film could have said stands in QUIET.
CALLS = {
    "preread assess": [["assess", "{root}"], ["assess", "{root}", "--json"]],
    "preread purge": [["purge", "--older-than", "0", "--dry-run"], ["purge", "--study", "-", "--dry-run"]],
    "preread export-patient": [["export-patient", "-"]],
    "preread bundle withdraw": [["bundle", "withdraw", "test/1.0.0", "--reason", "x", "--yes"]],
    "preread check": [["check", "--root", "{root}"], ["check", "--root", "{root}", "--json"]],
    "preread results": [["results"], ["results", "--json"], ["results", "--csv"]],
    "preread results show": [["results", "show", "1"], ["results", "show", "1", "--json"], ["results", "show", "2"]],
    "preread explain": [["explain", "{file}"], ["explain", "{file}", "--json"], ["explain", "{root}/nowhere"]],
    "preread drift": [["drift"], ["drift", "--json"]],
    "preread status": [["status"], ["status", "--json"]],
    "preread reconcile": [["reconcile"], ["reconcile", "--json"]],
    "preread requeue": [["requeue", "{file}", "--dry-run"], ["requeue", "{root}/nowhere"]],
    "preread quarantine list": [["quarantine", "list"], ["quarantine", "list", "--json"]],
    "preread quarantine show": [["quarantine", "show", "3"], ["quarantine", "show", "3", "--json"]],
    "preread quarantine release": [["quarantine", "release", "3", "--yes"]],
    "preread missed list": [["missed", "list"], ["missed", "list", "--json"]],
    "preread missed acknowledge": [["missed", "acknowledge", "--all"]],
    "preread review list": [["review", "list"]],
    "preread review show": [["review", "show", "1"]],
    "preread review next": [["review", "next"]],
    "preread review export": [["review", "export"]],
    "preread stats": [["stats"]],
    "preread users list": [["users", "list"]],
}
QUIET = {
    "preread alarm watch", "preread alarm test",
    "preread run", "preread backfill", "preread fleet work", "preread fleet status", "preread bundle list",
    "preread bundle show", "preread bundle verify", "preread db upgrade",
    "preread db backup", "preread db restore", "preread db downgrade", "preread db move", "preread setup",
    "preread uninstall",
    "preread bundle add", "preread bundle activate", "preread bundle rollback", "preread bundle shadow",
    "preread bundle compare",
    "preread db check", "preread db compact", "preread version", "preread web", "preread review sign",
    "preread audit verify", "preread audit rekey", "preread users sessions",
    "preread users add", "preread users disable", "preread users options", "preread users passwd",
}  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch, jpeg: Callable[..., bytes]) -> Any:
    """A database with a film of every outcome in a folder with such a name, and the folder."""
    path = tmp_path / "preread.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{path}")
    root = os.path.join(os.fsencode(tmp_path), b"root " + NAME)
    os.mkdir(root)
    names = [bytes([65 + number]) + NAME for number in range(6)]
    for number, name in enumerate(names):
        with open(os.path.join(root, name), "wb") as stream:
            stream.write(jpeg() + bytes([number]))
    engine = open_engine(f"sqlite:///{path}")
    ledger = Ledger(engine, worker_id="one", lease_s=60)
    root_id = ledger.register_root(root, population=Population.RESEARCH, path_pattern="{patient_id}/*")
    bundle_id = ledger.register_bundle(name="test", version="1.0.0", digest="d" * 64, manifest='{"findings": []}')
    ledger.settle(ledger.observe(root_id, [Observation(name, 10, 1) for name in names]).values())
    claims = {claim.path: claim for claim in ledger.claim([root_id], len(names))}
    text: dict[str, Any] = {
        one.name: NASTY + one.name for one in dataclasses.fields(Identity) if one.type == "str | None"
    }
    content = ContentAssessment(
        (Finding("pneumonia", 1.0, 0.7, 0.5, Answer.FLAGGED),), (Caveat.LOSSY,), NASTY, np.zeros((2, 2), np.float32)
    )

    def facts(number: Any) -> Any:
        identity = Identity(**text | {"patient_name": FORMULA, "sop_instance_uid": NASTY})
        return FileFacts(f"{number:064x}", identity, "DICOM", NASTY, 10, 12, Population.RESEARCH, (), 1.0)

    assessed, refused, unreadable, locked, crashed, _ = (claims[name] for name in names)
    assert commit_assessed(ledger, assessed, facts(1), bundle_id, content)
    assert commit_refused(ledger, refused, facts(2), bundle_id, RefusalCode.BODY_PART, f"it shows {NASTY}")
    assert commit_unreadable(ledger, unreadable, TruncatedPixels(NASTY), facts(3))
    assert ledger.give_back(locked, FileLocked(NASTY), retry_in_s=1000.0) is FileState.RETRY
    assert ledger.record_failure(crashed, SlotCrashed(NASTY)) is FileState.RETRY
    ledger.record_absent(root_id, [names[4]])
    engine.dispose()
    return {"root": os.fsdecode(root), "file": os.fsdecode(os.path.join(root, names[3]))}


def steers(text: Any) -> Any:
    """Characters that a terminal obeys, or that reorder what a person reads; line feeds are the table's own."""
    return {c for c in text if c != "\n" and (unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c == "\u202e")}


@pytest.mark.parametrize("arguments", [call for calls in CALLS.values() for call in calls], ids=" ".join)
def test_nothing_that_is_printed_steers_a_terminal(
    preread: CommandRunner, hostile: Any, monkeypatch: pytest.MonkeyPatch, brightness_classifier: Any, arguments: Any
) -> None:
    monkeypatch.setattr(self_check, "load_checked", lambda _: (brightness_classifier, 0.0))
    ran = preread(*(word.format(**hostile) for word in arguments))
    assert ran.exit_code in {0, 1, 2}, ran.err
    assert ran.out or ran.err
    assert not steers(ran.out.replace("\r\n", "\n"))  # the line ends of CSV
    assert not steers(ran.err)
    assert "Traceback" not in ran.err
    if "--json" in arguments:
        assert ran.records


def test_no_cell_of_a_sheet_is_a_formula(preread: CommandRunner, hostile: Any) -> None:
    rows = list(csv.reader(io.StringIO(preread("results", "--csv").out)))
    assert len(rows) == 4
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in set("=+@|%\t\r") or steers(cell)]
    assert f"'{FORMULA}" in cells


def test_every_command_that_prints_is_tried() -> None:
    there = set(commands(typer.main.get_command(app), "preread"))
    assert there == set(CALLS) | QUIET


def test_no_error_message_steers_a_terminal(preread: CommandRunner, hostile: Any) -> None:
    for error in (ShareDown(NASTY), FileLocked(NASTY)):
        assert not steers(preread("explain", str(error)).err)
