"""The same by command: users, worklist, readings, export, statistics, the audit trail; and listening."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from preread.cli import main
from preread.core.types import Answer, FileState, RefusalCode
from preread.db import audit_key
from preread.db.engine import sqlite_path
from preread.review.auth import accounts
from preread_training.data.dataset import list_labelled_images
from tests.support.page import PASSWORD, Films


class Ran(NamedTuple):
    """What one command said; another command changes nothing of it."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> Ran:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        return Ran(main(arguments), *self._capsys.readouterr())


@pytest.fixture
def preread(
    films_here: Films, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Shell]:
    monkeypatch.setenv("PREREAD_DATABASE_URL", f"sqlite:///{sqlite_path(films_here.engine)}")
    monkeypatch.setenv("PREREAD_PREVIEW_DIR", str(films_here.preview_dir))
    monkeypatch.chdir(tmp_path)
    for target, name in [(sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")]:
        monkeypatch.setattr(target, name, getattr(target, name))
    before = [
        (one, one.level, list(one.handlers)) for one in map(logging.getLogger, (None, "preread", "preread_training"))
    ]
    yield Shell(capsys, monkeypatch)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_users_are_added_changed_disabled_and_listed(films_here: Films, preread: Shell) -> None:
    assert preread("users", "add", "ada", "--role", "reader", "--full-name", "Dr Ada", stdin=f"{PASSWORD}\n").code == 0
    assert preread("users", "add", "ada", "--role", "reader", stdin=f"{PASSWORD}\n").code == 2
    assert preread("users", "add", "ben", "--role", "admin", stdin="short\n").code == 2
    assert preread("users", "add", "ben", "--role", "admin").code == 2
    assert preread("users", "add", "ben").code == 2
    token = preread("users", "add", "ris", "--role", "service").out.strip()
    assert accounts.find_account_by_token(films_here.engine, token) is not None
    assert preread("users", "passwd", "ada", stdin="another long password\n").code == 0
    assert accounts.check_password(films_here.engine, "ada", "another long password").full_name == "Dr Ada"
    for option, said in (("--read-before-reveal", True), ("--answer-at-once", False)):
        assert preread("users", "options", "ada", option).code == 0
        assert accounts.find_account(films_here.engine, "ada").read_before_reveal is said
    assert preread("users", "options", "ris", "--read-before-reveal").code == 2
    assert preread("users", "options", "ada").code == 2
    assert preread("users", "passwd", "ris").out.strip() not in {"", token}
    assert preread("users", "disable", "ris").code == 0
    assert preread("users", "disable", "nobody").code == 2
    listed = [json.loads(line) for line in preread("users", "list", "--json").out.splitlines()]
    assert [(one["name"], one["role"], one["disabled_at"] is None) for one in listed] == [
        ("ada", "reader", True),
        ("ris", "service", False),
    ]
    assert "password" not in preread("users", "list").out
    verified = preread("audit", "verify")
    assert verified.out.startswith("the audit trail is unchanged: 9 entries, 9 with a key")
    assert preread("audit", "verify", "--journal", os.devnull).code == 2


def test_the_worklist_is_read_signed_and_exported_by_command(films_here: Films, preread: Shell, tmp_path: Path) -> None:
    flagged = films_here.add("a.dcm", Answer.FLAGGED, preview=True, patient_id="P1")
    other = films_here.add("b.dcm", Answer.NOT_FLAGGED, preview=True, patient_id="P2")
    refused = films_here.add("c.dcm", RefusalCode.VIEW)
    films_here.person("ada")
    assert preread("review", "next").out.strip() == str(flagged)
    assert [json.loads(line)["id"] for line in preread("review", "list", "--json").out.splitlines()] == [
        flagged,
        other,
        refused,
    ]
    assert "pneumonia flagged" in preread("review", "list", "--order", "priority").out
    picture = tmp_path / "film.png"
    assert preread("review", "show", str(flagged), "--png", str(picture)).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_mode & 0o777 == 0o600
    picture.chmod(0o644)
    assert preread("review", "show", str(flagged), "--png", str(picture)).code == 0
    assert picture.stat().st_mode & 0o777 == 0o600
    assert preread("review", "show", str(refused), "--png", str(picture)).code == 1
    assert preread("review", "show", "99").code == 2

    def sign(film: int, *more: str, password: str = PASSWORD) -> Ran:
        command = ("review", "sign", str(film), "--reader", "ada", "--verdict", "accepted", *more)
        return preread(*command, stdin=f"{password}\n")

    def signed(film: int, *more: str, password: str = PASSWORD) -> int:
        return sign(film, *more, password=password).code

    assert signed(flagged, password="wrong password") == 2
    assert signed(flagged, "--finding", "pneumonia=perhaps") == 2
    assert signed(flagged, "--finding", "=8+8;=9+9=present") == 2
    unknown = (
        "review",
        "sign",
        str(flagged),
        "--reader",
        "ada",
        "--verdict",
        "accepted",
        "--finding",
        "effusion=present",
    )
    assert "[finding_unknown]" in preread(*unknown, stdin=f"{PASSWORD}\n").err
    assert signed(flagged, "--finding", "pneumonia=present", "--comment", "left base") == 0
    assert signed(other) == 0
    assert signed(refused) == 0
    assert signed(99) == 2
    again = sign(other, "--comment", "again")
    assert again.code == 2
    (number,) = re.findall(r"ada has already signed review (\d+) of image \d+: correct it", again.err)
    assert signed(other, "--corrects", number) == 0
    assert preread("review", "next").code == 1
    assert "left base" in preread("review", "show", str(flagged)).out
    assert json.loads(preread("review", "show", str(flagged), "--json").out)["readings"][0]["verdict"] == "accepted"

    films_here.again(other, "b.dcm", Answer.FLAGGED)
    assert preread("review", "next").out.strip() == str(other)
    assert "before its result changed" in preread("review", "list").out
    assert [json.loads(line)["read_before"] for line in preread("review", "list", "--json").out.splitlines()] == [True]
    assert ", of an earlier result" in preread("review", "show", str(other)).out
    films_here.bundle_id = 1
    films_here.ledger.requeue([other], "asked for", states=[FileState.DONE])
    films_here.commit("b.dcm", Answer.NOT_FLAGGED)
    assert preread("review", "next").code == 1

    folder = tmp_path / "images"
    exported = preread("review", "export", "--images", str(folder))
    assert exported.code == 1
    assert f"image {refused} is left out" in exported.err
    rows = list(csv.DictReader(io.StringIO(exported.out)))
    assert [row["label"] for row in rows] == ["PNEUMONIA", "ABSENT"]
    assert not {"P1", "P2"} & {row["patient"] for row in rows}
    (tmp_path / "readings.csv").write_text(exported.out)
    learned = list_labelled_images(tmp_path / "readings.csv", "ABSENT")
    assert [film.present for film in learned] == [("pneumonia",), ()]
    assert all(film.path.is_file() for film in learned)
    every = [json.loads(line) for line in preread("review", "export", "--json").out.splitlines()]
    assert [one["film"] for one in every] == [flagged, other, refused, other]

    (group,) = [json.loads(line) for line in preread("stats", "--by", "bundle", "--json").out.splitlines()]
    assert (group["readings"], group["agree"], group["accepted"]) == (3, 2, 3)
    assert "films/1" in preread("stats").out


def test_the_database_is_written_anew_by_command(films_here: Films, preread: Shell, monkeypatch: Any) -> None:
    assert preread("db", "compact").code == 0
    monkeypatch.setattr("preread.cli.database.compact_file", lambda _engine: False)
    busy = preread("db", "compact")
    assert (busy.code, "[database_busy]" in busy.err) == (3, True)


def test_a_broken_trail_is_told(films_here: Films, preread: Shell) -> None:
    films_here.person("ada")
    head = preread("audit", "verify").out.split()[-1]
    assert preread("audit", "verify", "--head", head).code == 0
    assert preread("audit", "verify", "--head", "1").code == 2
    with films_here.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_keeps_update"))
        connection.execute(text("UPDATE audit SET actor = 'account:7'"))
    broken = preread("audit", "verify")
    assert broken.code == 1
    assert "[audit_broken]" in broken.err


def test_what_is_not_as_it_was_is_named_and_taken_as_it_is_with_a_new_key(films_here: Films, preread: Shell) -> None:
    films_here.person("ada")
    with films_here.engine.begin() as connection:
        connection.execute(text("UPDATE account SET role = 'admin'"))
    broken = preread("audit", "verify")
    assert broken.code == 1
    assert "account 1 differs from the audit trail" in broken.out
    assert "[audit_broken]" in broken.err
    assert preread("audit", "rekey").code == 2
    assert preread("audit", "rekey", "--yes").code == 0
    assert preread("audit", "verify").code == 0
    key = audit_key.keyring_of(films_here.engine).path
    assert key is not None
    key.unlink()
    assert "[audit_key_missing]" in preread("audit", "verify").err
    assert "the key file of the audit trail, " in preread("check").out


def test_what_is_open_to_others_is_named(films_here: Films, preread: Shell) -> None:
    films_here.person("ada")
    database, key = sqlite_path(films_here.engine), audit_key.keyring_of(films_here.engine).path
    assert database is not None
    assert key is not None
    database.chmod(0o600)
    assert "no other user can read" in preread("check").out
    for path, mode in ((database, 0o666), (key, 0o640)):
        path.chmod(mode)
        assert f"{path} ({mode:o})" in preread("check").out
        path.chmod(0o600)


def test_the_page_is_not_opened_to_others_in_the_open(preread: Shell, monkeypatch: Any) -> None:
    refused = preread("web", "--host", "0.0.0.0")
    assert refused.code == 2
    assert "PREREAD_WEB_TLS_CERT" in refused.err
    monkeypatch.setenv("PREREAD_WEB_LANGUAGE", "xx")
    assert preread("web").code == 2


def test_an_address_that_is_taken_is_told(
    preread: Shell, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = preread("web", "--port", port)
    assert answer.code == 3
    assert "no user exists yet" in answer.err
