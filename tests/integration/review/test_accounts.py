"""Accounts, sessions and the audit trail: no default, no way around, and nobody can rewrite what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from preread.core.errors import AuditBroken, NotAllowed, UsageError
from preread.core.types import Role
from preread.db import audit_key, review_schema
from preread.monitoring import health
from preread.review import audit
from preread.review.audit import AuditHead
from preread.review.auth import accounts, sessions

PASSWORD = "correct horse battery"
SHELL = "uid:0"


def test_nobody_is_there_until_somebody_is_added(engine: Engine) -> None:
    assert accounts.list_accounts(engine) == []
    with pytest.raises(NotAllowed):
        accounts.check_password(engine, "admin", "admin")


def test_a_person_signs_in_with_the_password_alone(engine: Engine) -> None:
    assert accounts.add_account(engine, SHELL, accounts.NewAccount("Ada", "Dr Ada", Role.READER, PASSWORD)) is None
    assert accounts.check_password(engine, " ADA ", PASSWORD).full_name == "Dr Ada"
    for wrong in ("", PASSWORD + "!", PASSWORD.upper(), "x" * 5000):
        with pytest.raises(NotAllowed):
            accounts.check_password(engine, "ada", wrong)
    with engine.connect() as connection:
        stored = connection.execute(select(review_schema.account.c.password_hash)).scalar_one()
    assert stored.startswith("$argon2id$")


@pytest.mark.parametrize(
    "name,role,password",
    [
        ("ada", Role.READER, None),
        ("ada", Role.READER, "short"),
        ("ada", Role.ADMIN, "x" * 1025),
        ("twelve.chars", Role.READER, "Twelve.Chars"),
        ("Ä", Role.READER, PASSWORD),
        ("", Role.READER, PASSWORD),
        ("robot", Role.SERVICE, PASSWORD),
    ],
)
def test_a_poor_name_or_password_is_no_account(engine: Engine, name: str, role: Role, password: str | None) -> None:
    with pytest.raises(UsageError):
        accounts.add_account(engine, SHELL, accounts.NewAccount(name, "", role, password))
    assert accounts.list_accounts(engine) == []


def test_a_program_has_a_token_that_is_shown_once_and_can_be_renewed(engine: Engine) -> None:
    token = accounts.add_account(engine, SHELL, accounts.NewAccount("ris", "the RIS", Role.SERVICE, None))
    assert token is not None
    found = accounts.find_account_by_token(engine, token)
    assert found is not None
    assert (found.name, found.role) == ("ris", Role.SERVICE)
    with pytest.raises(NotAllowed):
        accounts.check_password(engine, "ris", token)
    renewed = accounts.renew_secret(engine, SHELL, "ris", None)
    assert renewed is not None
    assert accounts.find_account_by_token(engine, token) is None
    assert accounts.find_account_by_token(engine, renewed) is not None
    accounts.disable_account(engine, SHELL, "ris")
    assert accounts.find_account_by_token(engine, renewed) is None


def test_a_session_ends_by_idling_by_signing_out_by_disabling_and_by_a_new_password(engine: Engine) -> None:
    accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "", Role.READER, PASSWORD))
    ada = accounts.find_account(engine, "ada")

    def begun() -> str:
        return sessions.start_session(engine, ada)

    token = begun()
    assert sessions.find_session(engine, "another", 60, touch=True) is None
    found = sessions.find_session(engine, token, 60, touch=True)
    assert found is not None
    sessions.end_session(engine, found)
    assert sessions.find_session(engine, token, 60, touch=True) is None

    token = begun()
    with engine.begin() as connection:
        c = review_schema.session.c
        seen = connection.execute(select(c.seen_at)).scalar_one()
        connection.execute(update(review_schema.session).values(seen_at=seen - timedelta(seconds=61)))
    assert sessions.find_session(engine, token, 60, touch=True) is None

    token = begun()
    accounts.renew_secret(engine, SHELL, "ada", PASSWORD + "2")
    assert sessions.find_session(engine, token, 60, touch=True) is None
    token = begun()
    accounts.disable_account(engine, SHELL, "ada")
    assert sessions.find_session(engine, token, 60, touch=True) is None
    with pytest.raises(NotAllowed):
        accounts.check_password(engine, "ada", PASSWORD + "2")


def test_a_token_is_valid_until_its_day(engine: Engine) -> None:
    token = accounts.add_account(engine, SHELL, accounts.NewAccount("ris", "", Role.SERVICE, None), token_days=10)
    assert token is not None
    assert accounts.find_account_by_token(engine, token) is not None
    expires = accounts.find_account(engine, "ris").token_expires_at
    assert expires is not None

    def said() -> list[str]:
        found = health.report(engine, roots=None, scan_interval_s=1)
        return [problem.what for problem in found.problems if problem.code == "token_expires"]

    assert f"the token of ris expires on {expires:%Y-%m-%d}" in said()[0]
    with engine.begin() as connection:
        connection.execute(update(review_schema.account).values(token_expires_at=expires - timedelta(days=10)))
    assert accounts.find_account_by_token(engine, token) is None
    assert "expired" in said()[0]
    renewed = accounts.renew_secret(engine, SHELL, "ris", None)
    assert accounts.find_account_by_token(engine, str(renewed)) is not None
    assert said() == []
    accounts.renew_secret(engine, SHELL, "ris", None, token_days=1)
    accounts.disable_account(engine, SHELL, "ris")
    assert said() == []


def test_sessions_are_listed_and_ended(engine: Engine) -> None:
    for name in ("ada", "ben"):
        accounts.add_account(engine, SHELL, accounts.NewAccount(name, "", Role.READER, PASSWORD))
    ada, ben = accounts.find_account(engine, "ada"), accounts.find_account(engine, "ben")
    tokens = [sessions.start_session(engine, ada, address=f"203.0.113.{n}") for n in range(4)]
    others = sessions.start_session(engine, ben)

    def here() -> list[str]:
        return sorted(str(one.address) for one in sessions.list_sessions(engine, ada.account_id, 60))

    assert here() == [f"203.0.113.{n}" for n in range(4)]
    own, *rest = (sessions.find_session(engine, token, 60, touch=True) for token in tokens)
    assert own is not None
    assert rest[0] is not None
    assert sessions.end_sessions(engine, ben.actor, ben, only=own.session_id) == 0, "another's session is not ben's"
    assert sessions.end_sessions(engine, ada.actor, ada, only=rest[0].session_id, but=own.session_id) == 1
    assert here() == ["203.0.113.0", "203.0.113.2", "203.0.113.3"]
    assert sessions.end_sessions(engine, ada.actor, ada, only=own.session_id, but=own.session_id) == 0
    assert sessions.end_sessions(engine, ada.actor, ada, but=own.session_id) == 2
    assert [sessions.find_session(engine, token, 60, touch=True) is not None for token in tokens] == [
        True,
        False,
        False,
        False,
    ]
    assert sessions.find_session(engine, others, 60, touch=True) is not None
    # the same browser signs in again: the session before ends
    again = sessions.start_session(engine, ada, replaces=tokens[0])
    assert sessions.find_session(engine, tokens[0], 60, touch=True) is None
    assert sessions.find_session(engine, again, 60, touch=True) is not None
    with engine.begin() as connection:
        c = review_schema.session.c
        seen = connection.execute(select(c.seen_at).where(c.account_id == ada.account_id)).scalar_one()
        connection.execute(update(review_schema.session).values(seen_at=seen - timedelta(seconds=61)))
    assert here() == []
    rows = [(row.actor, row.action) for row in audit.latest_audit_entries(engine, 50) if row.action == "sessions_ended"]
    assert rows == [(ada.actor, "sessions_ended")] * 2


# --------------------------------------------------------------------------- the audit trail


def test_every_act_is_on_record_by_ids_alone(engine: Engine) -> None:
    accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "Dr Ada", Role.READER, PASSWORD))
    ada = accounts.find_account(engine, "ada")
    sessions.start_session(engine, ada)
    with pytest.raises(NotAllowed):
        accounts.check_password(engine, "ada", "wrong password")
    with pytest.raises(NotAllowed):
        accounts.check_password(engine, "mallory", "wrong password", source="203.0.113.9")
    rows = audit.latest_audit_entries(engine, 10)
    taken_over = {audit.Action.KEY, audit.Action.USER_KNOWN}
    assert [(row.actor, row.action, row.object) for row in reversed(rows) if row.action not in taken_over] == [
        (SHELL, "user_added", ada.actor),
        (ada.actor, "sign_in", ada.actor),
        ("nobody@here", "sign_in_failed", ada.actor),
        ("nobody@203.0.113.9", "sign_in_failed", "account:?"),
    ]
    assert audit.verify_audit_chain(engine).head.rows == rows[0].number


def test_the_database_refuses_to_change_or_remove_what_is_signed(engine: Engine) -> None:
    accounts.add_account(engine, SHELL, accounts.NewAccount("ada", "", Role.READER, PASSWORD))
    for statement in (update(review_schema.audit).values(actor="nobody"), delete(review_schema.audit)):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(statement)
    assert audit.verify_audit_chain(engine).head == audit.read_audit_head(engine)


def _without_triggers(engine: Engine) -> None:
    """What somebody does who owns the database."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            for event in ("update", "delete"):
                connection.execute(text(f"DROP TRIGGER audit_keeps_{event}"))
        else:
            connection.execute(text("DROP TRIGGER audit_keeps ON audit"))


def _change(connection: Any) -> None:
    connection.execute(update(review_schema.audit).where(review_schema.audit.c.id == 2).values(actor="account:9"))


def _remove(connection: Any) -> None:
    connection.execute(delete(review_schema.audit).where(review_schema.audit.c.id == 2))


def _put_in(connection: Any) -> None:
    last = connection.execute(select(review_schema.audit).order_by(review_schema.audit.c.id.desc()).limit(1)).one()
    connection.execute(insert(review_schema.audit), {**last._mapping, "id": last.id + 1})


@pytest.mark.parametrize("forge", [_change, _remove, _put_in])
def test_whoever_rewrites_the_trail_breaks_the_chain(engine: Engine, forge: Any) -> None:
    for name in ("ada", "ben", "eve"):
        accounts.add_account(engine, SHELL, accounts.NewAccount(name, "", Role.READER, PASSWORD))
    assert audit.verify_audit_chain(engine).head.rows >= 3
    _without_triggers(engine)
    with engine.begin() as connection:
        forge(connection)
    with pytest.raises(AuditBroken):
        audit.verify_audit_chain(engine)


FORGED = {
    "id": 99,
    "at": datetime(2020, 1, 1, tzinfo=UTC),
    "actor": "account:9",
    "action": "view",
    "object": "file:9",
    "previous_hash": "e" * 64,
    "hash": "f" * 64,
    "content": "a" * 64,
}


def _forge_column(engine: Engine, key: Path | None, column: str, value: object) -> None:
    """Change one column of the second of several entries, past the triggers."""
    audit_key.attach_keyring(engine, key)
    for name in ("ada", "ben", "eve"):
        accounts.add_account(engine, SHELL, accounts.NewAccount(name, "", Role.READER, PASSWORD))
    assert audit.verify_audit_chain(engine).unproven == []
    _without_triggers(engine)
    second = review_schema.audit.c.id == 2
    with engine.begin() as connection:
        before = connection.execute(select(review_schema.audit.c[column]).where(second)).scalar_one()
        assert before != value
        connection.execute(update(review_schema.audit).where(second).values({column: value}))


@pytest.mark.parametrize("column", [column.name for column in review_schema.audit.columns if column.name != "key_id"])
def test_audit_verify_finds_a_change_of_any_column_of_a_keyed_entry(
    engine: Engine, tmp_path: Path, column: str
) -> None:
    _forge_column(engine, tmp_path / "key", column, FORGED[column])
    with pytest.raises(AuditBroken):
        audit.verify_audit_chain(engine)


def test_audit_verify_names_an_entry_whose_key_is_unknown(engine: Engine, tmp_path: Path) -> None:
    _forge_column(engine, tmp_path / "key", "key_id", "0" * 16)
    assert audit.verify_audit_chain(engine).unproven == [(2, 2)]


# version 0.1.0 had no key, and its entries no content
@pytest.mark.parametrize("column", [name for name in FORGED if name != "content"])
def test_audit_verify_finds_a_change_of_any_column_of_an_entry_without_key(engine: Engine, column: str) -> None:
    _forge_column(engine, None, column, FORGED[column])
    with pytest.raises(AuditBroken):
        audit.verify_audit_chain(engine)


def test_a_head_that_was_written_down_tells_of_a_trail_that_was_cut_or_forged(engine: Engine) -> None:
    for name in ("ada", "ben"):
        accounts.add_account(engine, SHELL, accounts.NewAccount(name, "", Role.READER, PASSWORD))
    known = audit.read_audit_head(engine)
    assert audit.verify_audit_chain(engine, [known]).head == known
    _without_triggers(engine)
    with engine.begin() as connection:
        connection.execute(delete(review_schema.audit).where(review_schema.audit.c.id == known.rows))
    audit.verify_audit_chain(engine)  # the chain alone does not show that its end is missing
    with pytest.raises(AuditBroken, match=f"ends at entry {known.rows - 1}"):
        audit.verify_audit_chain(engine, [known])
    with pytest.raises(AuditBroken, match="recorded earlier"):
        audit.verify_audit_chain(engine, [AuditHead(1, "f" * 64)])
