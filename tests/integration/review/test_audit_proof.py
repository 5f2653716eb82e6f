"""What the audit trail proves: every edit past the program shows, and nothing that the program does itself."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, insert, select, text, update

from preread.admin import purge
from preread.cli.audit import _heads, _logged_heads
from preread.core.errors import AuditBroken, AuditKeyMissing, SettingsError, UsageError
from preread.core.types import Answer, FileState, Presence, RefusalCode, Role, Verdict
from preread.db import audit_key, review_schema, schema
from preread.db.engine import database_now, read
from preread.review import audit, audit_proof, reviews
from preread.review.audit import Action, AuditHead
from preread.review.auth import accounts
from preread.review.reviews import ReviewDraft, ShownResult
from tests.support.page import PASSWORD, Films

SHELL = "uid:0"
_audit, _reading, _viewing, _account = (
    review_schema.audit, review_schema.reading, review_schema.viewing, review_schema.account,
)  # fmt: skip


@pytest.fixture
def keyed(films: Films, tmp_path: Path) -> Films:
    """Films, people and readings in a database that has had its key from the start."""
    audit_key.attach_keyring(films.engine, tmp_path / "key")
    audit_proof.accept_unproven_rows(films.engine, SHELL)
    ada, ben = films.person("ada"), films.person("ben")
    accounts.add_account(films.engine, SHELL, accounts.NewAccount("ris", "", Role.SERVICE, None))
    who: dict[str, Any] = {"patient_id": "P1", "patient_name": "DOE^JANE"}
    for name, answer in (("a", Answer.FLAGGED), ("b", Answer.NOT_FLAGGED), ("c", RefusalCode.VIEW), ("d", None)):
        film = films.add(f"{name}.dcm", answer, **who)
        for reader in (ada, ben):
            look(films, reader, film)
            sign(films, reader, film, comment="seen")
    return films


def shown(films: Films, film: int) -> ShownResult:
    with films.engine.connect() as connection:
        return reviews.shown_result(connection.execute(schema.file.select().where(schema.file.c.id == film)).one())


def look(films: Films, who: accounts.Account, film: int) -> None:
    reviews.record_viewing(films.engine, who, film, shown(films, film), answer_visible=True)


def sign(films: Films, who: accounts.Account, film: int, **more: Any) -> int:
    draft = ReviewDraft(
        film, shown(films, film), Verdict.ACCEPTED, f"{who.name}-{film}-{more}", {"pneumonia": Presence.PRESENT}, **more
    )
    return reviews.sign_review(films.engine, who, draft)


def faults(films: Films) -> list[str]:
    """What is found, whichever way it is told."""
    try:
        found = audit_proof.verify_audited_rows(films.engine)
    except AuditBroken as error:
        return [str(error)]
    return [*found.faults, *map(str, found.chain.unproven), *(["unsealed"] if found.unsealed else [])]


def by_hand(engine: Engine, edit: Callable[[Connection], Any]) -> None:
    """What somebody does who owns the database: without triggers, keys of other tables, or the program."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
            for name in names:
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET session_replication_role = replica"))
        edit(connection)
        if engine.dialect.name != "sqlite":
            connection.execute(text("SET session_replication_role = DEFAULT"))


def last_rows(connection: Connection, count: int) -> list[int]:
    return list(connection.execute(select(_audit.c.id).order_by(_audit.c.id.desc()).limit(count)).scalars())


def forge_without_key(connection: Connection) -> None:
    """Another actor, and every hash made anew as version 0.1.0 made it."""
    connection.execute(update(_audit).where(_audit.c.id == 3).values(actor="account:9"))
    previous = "0" * 64
    for row in connection.execute(select(_audit).order_by(_audit.c.id)).all():
        changed = row._asdict() | {"previous_hash": previous, "key_id": None, "content": None}
        previous = changed["hash"] = audit._hash(None, changed)
        connection.execute(update(_audit).where(_audit.c.id == row.id).values(**changed))


def put_account_in(connection: Connection) -> None:
    ada = connection.execute(select(_account).where(_account.c.name == "ada")).one()._asdict()
    connection.execute(insert(_account), {**ada, "id": 99, "name": "eve"})


def put_reading_in(connection: Connection) -> None:
    one = connection.execute(select(_reading).limit(1)).one()._asdict()
    connection.execute(insert(_reading), {**one, "id": 99, "form_token": "x" * 20, "supersedes_id": None})


EDITS: dict[str, Callable[[Connection], Any]] = {
    "an actor": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(actor="account:9")),
    "an action": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(action="view")),
    "an object": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(object="account:9")),
    "a content": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(content="0" * 64)),
    "no content": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(content=None)),
    "a time": lambda c: c.execute(update(_audit).where(_audit.c.id == 3).values(at=database_now(c))),
    "a row removed": lambda c: c.execute(delete(_audit).where(_audit.c.id == 3)),
    "the first row removed": lambda c: c.execute(delete(_audit).where(_audit.c.id == 1)),
    "the last rows cut": lambda c: c.execute(delete(_audit).where(_audit.c.id.in_(last_rows(c, 3)))),
    "all rows removed": lambda c: c.execute(delete(_audit)),
    "all hashes made anew": forge_without_key,
    "a verdict": lambda c: c.execute(update(_reading).where(_reading.c.id == 1).values(verdict="rejected")),
    "a comment": lambda c: c.execute(update(_reading).where(_reading.c.id == 2).values(comment="")),
    "whose reading": lambda c: c.execute(update(_reading).where(_reading.c.id == 2).values(account_id=1)),
    "whether it was seen": lambda c: c.execute(update(_reading).where(_reading.c.id == 2).values(answer_visible=False)),
    "a finding": lambda c: c.execute(update(review_schema.reading_finding).values(presence="absent")),
    "a finding removed": lambda c: c.execute(delete(review_schema.reading_finding)),
    "a reading removed": lambda c: (
        c.execute(delete(review_schema.reading_finding).where(review_schema.reading_finding.c.reading_id == 1)),
        c.execute(delete(_reading).where(_reading.c.id == 1)),
    ),
    "a reading put in": put_reading_in,
    "an answer": lambda c: c.execute(update(schema.finding).values(answer="uncertain")),
    "a probability": lambda c: c.execute(update(schema.finding).values(probability=0.5)),
    "an answer removed": lambda c: c.execute(delete(schema.finding)),
    "the worklist's answer": lambda c: c.execute(update(schema.file).where(schema.file.c.id == 1).values(answer=None)),
    "a patient's ID": lambda c: c.execute(update(schema.file).where(schema.file.c.id == 2).values(patient_id="P2")),
    "a patient's name": lambda c: c.execute(update(schema.file).where(schema.file.c.id == 3).values(patient_name=None)),
    "why it was refused": lambda c: c.execute(update(schema.file).where(schema.file.c.id == 3).values(code="age")),
    "a header": lambda c: c.execute(update(schema.study_header).values(header="{}")),
    "what a header lacks": lambda c: c.execute(update(schema.study_header).values(left_out='["PatientID"]')),
    "a header's seal": lambda c: c.execute(update(schema.study_header).values(seal=None)),
    "another's header": lambda c: (
        c.execute(delete(schema.study_header).where(schema.study_header.c.file_id == 2)),
        c.execute(update(schema.study_header).where(schema.study_header.c.file_id == 1).values(file_id=2)),
    ),
    "a seal": lambda c: c.execute(update(schema.file).where(schema.file.c.id == 2).values(seal=None)),
    "another's seal": lambda c: c.execute(
        update(schema.file)
        .where(schema.file.c.id == 1)
        .values(seal=c.execute(select(schema.file.c.seal).where(schema.file.c.id == 2)).scalar())
    ),
    "a viewing removed": lambda c: c.execute(delete(_viewing).where(_viewing.c.id == 1)),
    "who looked": lambda c: c.execute(update(_viewing).where(_viewing.c.id == 1).values(account_id=2)),
    "a role": lambda c: c.execute(update(_account).where(_account.c.name == "ben").values(role="admin")),
    "a password": lambda c: c.execute(update(_account).where(_account.c.name == "ben").values(password_hash="x")),
    "a token": lambda c: c.execute(update(_account).where(_account.c.name == "ris").values(token_hash="x" * 64)),
    "a name": lambda c: c.execute(update(_account).where(_account.c.name == "ben").values(full_name="Dr Ada")),
    "disabled": lambda c: c.execute(
        update(_account).where(_account.c.name == "ben").values(disabled_at=database_now(c))
    ),
    "an account put in": put_account_in,
}


def test_what_the_program_does_itself_is_whole(keyed: Films) -> None:
    assert faults(keyed) == []
    ada = accounts.find_account(keyed.engine, "ada")
    accounts.renew_secret(keyed.engine, SHELL, "ada", f"{PASSWORD} again")
    accounts.renew_secret(keyed.engine, SHELL, "ris", None)
    accounts.set_read_before_reveal(keyed.engine, SHELL, ada, True)
    accounts.disable_account(keyed.engine, SHELL, "ben")
    with pytest.raises(Exception, match="wrong"):
        accounts.check_password(keyed.engine, "ada", "wrong password")
    assert accounts.check_password(keyed.engine, "ada", f"{PASSWORD} again").name == "ada"
    sign(keyed, ada, 1, comment="corrected", supersedes_id=1)
    keyed.again(2, "b.dcm", Answer.FLAGGED, patient_id="P1")
    look(keyed, ada, 2)
    keyed.again(3, "c.dcm", None)
    keyed.ledger.requeue([1], "asked for", states=[FileState.DONE])
    assert faults(keyed) == []


@pytest.mark.parametrize("edit", EDITS, ids=lambda name: name.replace(" ", "_").replace("'", ""))
def test_each_edit_past_the_program_is_found(keyed: Films, edit: str) -> None:
    by_hand(keyed.engine, EDITS[edit])
    assert faults(keyed) != []


@pytest.mark.parametrize("with_readings", [True, False])
def test_a_purge_leaves_the_trail_whole_and_names_nobody(keyed: Films, with_readings: bool) -> None:
    purge.purge_files(
        keyed.engine,
        purge.PurgeRequest(SHELL, "asked for", readings=with_readings, journal=None, preview_dir=None),
        [1, 4],
    )
    assert faults(keyed) == []
    films = [one.object for one in audit.latest_audit_entries(keyed.engine, 10) if one.action == Action.FORGOTTEN]
    ending = ":readings" if with_readings else ""
    assert films == [f"film:4{ending}", f"film:1{ending}"]
    by_hand(keyed.engine, lambda c: c.execute(update(_reading).where(_reading.c.file_id == 2).values(comment="x")))
    assert len(faults(keyed)) == 4


def test_a_kept_reading_of_a_purged_film_is_still_covered(keyed: Films) -> None:
    purge.purge_files(
        keyed.engine, purge.PurgeRequest(SHELL, "asked for", readings=False, journal=None, preview_dir=None), [1]
    )
    by_hand(keyed.engine, lambda c: c.execute(update(_reading).where(_reading.c.id == 1).values(comment="x")))
    assert len(faults(keyed)) == 2


def test_a_trail_of_the_version_before_is_taken_over_and_anchored(films: Films, tmp_path: Path) -> None:
    audit_key.attach_keyring(films.engine, None)
    ada = films.person("ada")
    film = films.add("a.dcm", Answer.FLAGGED, patient_id="P1")
    look(films, ada, film)
    sign(films, ada, film)
    before = audit.read_audit_head(films.engine)
    assert faults(films) == []
    audit_key.attach_keyring(films.engine, tmp_path / "key")
    assert faults(films) == []
    assert audit_proof.accept_unproven_rows(films.engine, SHELL) == 1
    assert audit_proof.accept_unproven_rows(films.engine, SHELL) == 0
    assert oct((tmp_path / "key").stat().st_mode) == "0o100600"
    found = audit_proof.verify_audited_rows(films.engine, [before])
    assert (found.faults, found.unsealed, found.chain.unproven) == ([], 0, [])
    for edit in ("a verdict", "an answer", "the worklist's answer", "an account put in"):
        by_hand(films.engine, EDITS[edit])
        assert faults(films) != []
        assert audit_proof.accept_unproven_rows(films.engine, SHELL, anew=True) == 1
        assert faults(films) == []
    by_hand(films.engine, lambda c: c.execute(update(_audit).where(_audit.c.id == 1).values(actor="account:9")))
    assert faults(films) == ["entry 1 of the audit trail was changed after it was written"]


@pytest.mark.parametrize("loss", ["gone", "unreadable", "another's", "broken"])
def test_without_its_key_the_program_goes_on_and_says_so(
    keyed: Films, tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, kept = tmp_path / "key", tmp_path / "kept"
    key.rename(kept)
    if loss == "unreadable":
        key.mkdir()
    elif loss == "another's":
        key.write_text("00" * 32)
    elif loss == "broken":
        key.write_text("no key")
    assert read(keyed.engine, audit_key.keyring_of(keyed.engine).fault) is not None
    keyed.person("eve")
    keyed.add("e.dcm", Answer.FLAGGED)
    assert "audit_key_missing" in caplog.messages
    assert not (loss == "gone" and key.exists())
    if loss == "another's":
        assert faults(keyed) != []
    else:
        with pytest.raises(AuditKeyMissing):
            audit_proof.verify_audited_rows(keyed.engine)
    if loss == "unreadable":
        key.rmdir()
    kept.replace(key)
    keyed.person("fay")
    found = audit_proof.verify_audited_rows(keyed.engine)
    assert [first == last for first, last in found.chain.unproven] == [True]
    assert (found.unsealed, found.faults) == (2, [])  # a result and its study header
    audit_proof.accept_unproven_rows(keyed.engine, SHELL, anew=True)
    assert faults(keyed) == []
    assert len(key.read_text().split()) == 2


def test_a_lost_key_is_replaced_and_everything_covered_again(keyed: Films, tmp_path: Path) -> None:
    (tmp_path / "key").unlink()
    assert audit_proof.accept_unproven_rows(keyed.engine, SHELL, anew=True) == 3
    assert faults(keyed) == []
    by_hand(keyed.engine, EDITS["a verdict"])
    assert faults(keyed) != []


def test_a_key_that_cannot_be_written_is_no_reason_to_let_nobody_in(films: Films, tmp_path: Path) -> None:
    audit_key.attach_keyring(films.engine, tmp_path / "nowhere" / "key")
    films.person("ada")
    assert faults(films) == []
    with pytest.raises(SettingsError, match="cannot be written"):
        audit_proof.accept_unproven_rows(films.engine, SHELL, anew=True)


def test_heads_go_to_the_system_log_as_entries_come(keyed: Films, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(audit, "SYSTEM_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(audit, "TOLD_EVERY", 5)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system_log:
        system_log.bind(str(tmp_path / "log"))
        system_log.settimeout(0.2)
        for _ in range(12):
            look(keyed, accounts.find_account(keyed.engine, "ada"), 1)
        lines = [system_log.recv(4096).decode() for _ in range(2)]
    heads = list(_logged_heads(iter(lines)))
    assert [head.rows % 5 for head in heads] == [0, 0]
    assert audit.verify_audit_chain(keyed.engine, heads).head.rows > heads[-1].rows
    by_hand(keyed.engine, lambda c: c.execute(delete(_audit).where(_audit.c.id >= heads[-1].rows)))
    with pytest.raises(AuditBroken, match="recorded earlier"):
        audit.verify_audit_chain(keyed.engine, heads)


def test_heads_are_read_from_lines_of_any_log(keyed: Films, tmp_path: Path, monkeypatch: Any) -> None:
    head = audit.read_audit_head(keyed.engine)
    other = AuditHead(7, "a" * 64)
    lines = [
        "Nov 29 20:00:00 host systemd[1]: Started preread.",
        f"Nov 29 20:00:00 host preread: audit head {head} key {head.key_id}",
        json.dumps({"event": "audit_head", "audit_head": str(other)}),
        f"audit_head audit_head={other}",
    ]
    (tmp_path / "journal").write_text("\n".join(lines))
    assert _heads(None, str(tmp_path / "journal"), []) == [head, other, other]
    monkeypatch.setattr("sys.stdin", io.StringIO(lines[1]))
    assert _heads(str(other), "-", []) == [other, head]
    with pytest.raises(UsageError, match="contains no line"):
        _heads(None, os.devnull, [])
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\ncat {tmp_path / 'journal'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert head.key_id is not None
    # another database of this machine tells its heads to the same journal
    assert _heads(None, None, [head.key_id]) == [head]
