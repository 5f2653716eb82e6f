"""Proof that reviews, viewings, accounts and results are as recorded.

Audit entries carry keyed digests of reviews, viewings and accounts (``AuditedContent``); results carry seals of their
own (``db.seals``), since workers write no entries. A purge legitimately removes rows: its entries name the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from preread.core.types import Outcome
from preread.db import audit_key, seals
from preread.db.audit_key import AuditKey
from preread.db.engine import read, write
from preread.db.review_schema import account, reading, reading_finding, viewing
from preread.db.review_schema import audit as audit_table
from preread.db.schema import assessment, column_in, file, finding, study_header
from preread.db.statements import read_pages
from preread.review import audit
from preread.review.audit import Action, AuditedContent, AuditHead, VerifiedChain

_PAGE = 2_000
_SEALED = (Outcome.ASSESSED, Outcome.REFUSED)
_ACCOUNTS = "account:"
_FILMS = "film:"
_OF_ACCOUNTS = frozenset(
    {Action.USER_ADDED, Action.USER_PASSWORD, Action.USER_DISABLED, Action.USER_OPTIONS, Action.USER_KNOWN}
)
_OF_READINGS = frozenset({Action.READING, Action.READING_KNOWN})


@dataclass(slots=True)
class Proof:
    """Result of a verification of the audit trail and the rows it protects.

    Attributes:
        chain: verified chain of entries.
        faults: one sentence for each row that differs.
        unsealed: number of results and study headers without a seal of an available key.
    """

    chain: VerifiedChain
    faults: list[str] = field(default_factory=list)
    unsealed: int = 0


def review_content(connection: Connection, reading_id: int) -> AuditedContent:
    """Return the columns and findings of a review that the audit protects."""
    row = connection.execute(select(reading).where(reading.c.id == reading_id)).one()
    return _with_findings(row, _findings_of(connection, [reading_id]).get(reading_id, []))


def viewing_content(connection: Connection, viewing_id: int) -> AuditedContent:
    """Return the columns of a viewing that the audit trail protects."""
    return AuditedContent(
        viewing.name, connection.execute(select(viewing).where(viewing.c.id == viewing_id)).one()._asdict()
    )


def stored_account_content(connection: Connection, account_id: int) -> AuditedContent:
    """Return the columns of a stored account that the audit trail protects."""
    return audit.account_content(connection.execute(select(account).where(account.c.id == account_id)).one())


def record_purge(connection: Connection, actor: str, file_ids: Sequence[int], *, readings: bool) -> None:
    """Record in the audit trail which images lose viewings or reviews.

    Call it before the purge, in its transaction.

    Args:
        connection: transaction.
        actor: see ``audit.append_entry``.
        file_ids: file versions to purge.
        readings: reviews are deleted, too.
    """
    affected: set[int] = set()
    for table in (viewing, reading) if readings else (viewing,):
        affected.update(connection.execute(select(table.c.file_id).where(table.c.file_id.in_(file_ids))).scalars())
    ending = ":readings" if readings else ""
    objects = ((f"{_FILMS}{file_id}{ending}", None) for file_id in sorted(affected))
    audit.append_entries(connection, actor, Action.FORGOTTEN, objects)


# ---------------------------------------------------------------------- verifying


def verify_audited_rows(engine: Engine, known: Iterable[AuditHead] = ()) -> Proof:
    """Verify the audit trail, and the rows of which it has digests.

    Args:
        engine: database.
        known: heads recorded earlier, which the chain must contain.

    Returns:
        The proof; ``faults`` is empty if everything is as recorded.

    Raises:
        AuditBroken, AuditKeyMissing: see ``audit.verify_audit_chain``.
    """
    keys = audit_key.keyring_of(engine).keys()
    expected = _Expected(keys)
    proof = Proof(audit.verify_audit_chain(engine, known, expected.process))
    if proof.chain.keyed:
        _compare_accounts(engine, expected, proof)
        _compare(engine, "review", expected.readings, expected.loose, _readings(engine), proof)
        _compare(engine, "viewing", expected.viewings, None, _viewings(engine), proof)
        _compare_results(engine, keys, proof)
    return proof


class _Expected:
    """Digests that must exist according to the entries, by image."""

    def __init__(self, keys: dict[str, AuditKey]) -> None:
        self.keys = keys
        self.accounts: dict[int, tuple[AuditKey, str] | None] = {}
        self.readings: dict[int, dict[tuple[str, str], int]] = {}
        self.viewings: dict[int, dict[tuple[str, str], int]] = {}
        self.loose: set[int] = set()  # images with reviews of which no entry has a digest

    def process(self, row: Row[Any]) -> None:
        """Process one entry."""
        key = self.keys.get(row.key_id)
        if key is not None and row.action == Action.KEY and audit.ACCEPTS in row.object:
            # the state was accepted here; entries that follow record it again
            for known in (self.accounts, self.readings, self.viewings, self.loose):
                known.clear()
        elif row.action in _OF_ACCOUNTS and row.object.startswith(_ACCOUNTS):
            proven = None if key is None or row.content is None else (key, row.content)
            self.accounts[int(row.object.removeprefix(_ACCOUNTS))] = proven
        elif row.action == Action.FORGOTTEN:
            film = int(row.object.split(":")[1])
            self.viewings.pop(film, None)
            if row.object.endswith(":readings"):
                self.readings.pop(film, None)
                self.loose.discard(film)
        elif row.action in _OF_READINGS:
            film = int(row.object.removeprefix(_FILMS))
            if key is None or row.content is None:
                self.loose.add(film)
                return
            if row.action == Action.READING_KNOWN:
                self.loose.discard(film)
            self.readings.setdefault(film, {})[row.key_id, row.content] = row.id
        elif row.content is not None and key is not None and row.object.startswith(_FILMS):
            self.viewings.setdefault(int(row.object.removeprefix(_FILMS)), {})[row.key_id, row.content] = row.id


def _compare_accounts(engine: Engine, expected: _Expected, proof: Proof) -> None:
    rows = read(engine, lambda connection: connection.execute(select(account).order_by(account.c.id)).all())
    by_id = {row.id: row for row in rows}
    for account_id, row in by_id.items():
        if account_id not in expected.accounts:
            proof.faults.append(f"account {account_id} has no entry in the audit trail: it was inserted")
            continue
        proven = expected.accounts[account_id]
        if proven is not None and audit.account_content(row).digest(proven[0]) != proven[1]:
            proof.faults.append(
                f"account {account_id} differs from the audit trail: its role, secret, name or state was changed"
            )
    missing = sorted(expected.accounts.keys() - by_id.keys())
    proof.faults += [f"account {account_id} was deleted" for account_id in missing]


def _compare(
    engine: Engine,
    what: str,
    expected: dict[int, dict[tuple[str, str], int]],
    loose: set[int] | None,
    rows: Iterator[tuple[int, int, AuditedContent]],
    proof: Proof,
) -> None:
    """Compare rows with entries in both directions.

    Args:
        engine: database.
        what: name of the kind of row, for the faults.
        expected: (key id, digest) and entry id, by image; entries that match are removed.
        loose: images whose rows may have no entry; ``None`` allows it for all.
        rows: row id, image and content of each row.
        proof: receives the faults.
    """
    keys = audit_key.keyring_of(engine).keys()
    for row_id, film, content in rows:
        entries = expected.get(film, {})
        key_ids = {key_id for key_id, _ in entries}
        same = [pair for key_id in key_ids if (pair := (key_id, content.digest(keys[key_id]))) in entries]
        for pair in same:
            del entries[pair]
        if not same and loose is not None and film not in loose:
            proof.faults.append(
                f"{what} {row_id} of image {film} differs from the audit trail: it was changed or inserted"
            )
    for film, entries in sorted(expected.items()):
        for number in sorted(entries.values()):
            proof.faults.append(
                f"the {what} of image {film} in entry {number} of the audit trail was changed or deleted"
            )


def _readings(engine: Engine) -> Iterator[tuple[int, int, AuditedContent]]:
    for rows in _pages(engine, reading):
        findings = read(engine, lambda connection, rows_=rows: _findings_of(connection, [row.id for row in rows_]))  # type: ignore[misc]
        for row in rows:
            yield row.id, row.file_id, _with_findings(row, findings.get(row.id, []))


def _viewings(engine: Engine) -> Iterator[tuple[int, int, AuditedContent]]:
    for rows in _pages(engine, viewing):
        for row in rows:
            yield row.id, row.file_id, AuditedContent(viewing.name, row._asdict())


def _compare_results(engine: Engine, keys: dict[str, AuditKey], proof: Proof) -> None:
    for rows in _pages(engine, file, file.c.outcome.in_(_SEALED), file.c.committed_at.is_not(None)):
        for row in rows:
            key = keys.get(seals.key_id_of_seal(row.seal or ""))
            if key is None:
                proof.unsealed += 1
            elif seals.seal_result(key, row.id, row._asdict()) != row.seal:
                proof.faults.append(f"the result of image {row.id} was changed: its content, or its patient")
    for rows in _pages(engine, assessment):
        for row, findings in _with_answers(engine, rows):
            key = keys.get(seals.key_id_of_seal(row.seal or ""))
            if key is not None and seals.seal_answers(key, row.instance_id, row.bundle_id, findings) != row.seal:
                proof.faults.append(f"the findings of assessment {row.id} were changed")
    for rows in _pages(engine, study_header):
        for row in rows:
            key = keys.get(seals.key_id_of_seal(row.seal or ""))
            if key is None:
                proof.unsealed += 1
            elif seals.seal_header(key, row._asdict()) != row.seal:
                proof.faults.append(f"the study header of image {row.file_id} was changed")


# ---------------------------------------------------------------------- vouching


def accept_unproven_rows(
    engine: Engine, actor: str, *, anew: bool = False, on_batch: Callable[[], None] = lambda: None
) -> int:
    """Accept the database's state by new audit entries and seals.

    Reviews and accounts are recorded by entries, results by seals.

    Args:
        engine: database.
        actor: see ``audit.append_entry``.
        anew: with a new key and whatever was recorded before; else only if this was never completed.
        on_batch: called after each transaction.

    Returns:
        Number of sealed results; 0 if there is no key.

    Raises:
        SettingsError: the key cannot be written, or no file for it is configured.
    """

    def begin(connection: Connection, is_retry: bool) -> bool:
        keyring = audit_key.keyring_of(connection)
        completed = select(audit_table.c.id).where(
            audit_table.c.action == Action.VOUCHED, audit_table.c.key_id.is_not(None)
        )
        first = connection.execute(completed.limit(1)).first() is None
        if anew and not is_retry:
            audit_key.renew_audit_key(connection)
        key = keyring.current(connection)
        last = audit.select_audit_head(connection)
        if key is not None and last.key_id != key.key_id:
            audit.begin_audit_key(connection, actor, key, last, anew=anew)
        return key is not None and (first or anew)

    if not write(engine, begin):
        return 0
    for rows in _pages(engine, reading):
        write(engine, lambda connection, _, of=rows: _record_readings(connection, actor, of))  # type: ignore[misc]
        on_batch()
    sealed = 0
    for rows in _pages(engine, assessment):
        write(engine, lambda connection, _, of=rows: _seal_answers(engine, connection, of))  # type: ignore[misc]
        on_batch()
    for rows in _pages(engine, file, file.c.outcome.in_(_SEALED), file.c.committed_at.is_not(None)):
        sealed += write(engine, lambda connection, _, of=rows: _seal_results(connection, of))  # type: ignore[misc]
        on_batch()
    for rows in _pages(engine, study_header):
        write(engine, lambda connection, _, of=rows: _seal_headers(connection, of))  # type: ignore[misc]
        on_batch()
    write(engine, lambda connection, _: audit.append_entry(connection, actor, Action.VOUCHED, f"results:{sealed}"))
    return sealed


def _record_readings(connection: Connection, actor: str, rows: Sequence[Row[Any]]) -> None:
    """Append an entry for each of these reviews."""
    current = connection.execute(
        select(reading).where(column_in(connection, reading.c.id, [row.id for row in rows]))
    ).all()
    findings = _findings_of(connection, [row.id for row in current])
    objects = ((f"{_FILMS}{row.file_id}", _with_findings(row, findings.get(row.id, []))) for row in current)
    audit.append_entries(connection, actor, Action.READING_KNOWN, objects)


def _seal_answers(engine: Engine, connection: Connection, rows: Sequence[Row[Any]]) -> None:
    key = audit_key.keyring_of(connection).for_seals(connection)
    for row, findings in _with_answers(engine, rows):
        seal = seals.seal_answers(key, row.instance_id, row.bundle_id, findings)
        connection.execute(update(assessment).where(assessment.c.id == row.id).values(seal=seal))


def _seal_results(connection: Connection, rows: Sequence[Row[Any]]) -> int:
    key = audit_key.keyring_of(connection).for_seals(connection)
    c = file.c
    sealed = 0
    for row in rows:
        seal = seals.seal_result(key, row.id, row._asdict())
        # a worker may have committed another result meanwhile, and sealed it
        same = (c.id == row.id) & (c.committed_at == row.committed_at) & c.seal.is_not_distinct_from(row.seal)
        sealed += connection.execute(update(file).where(same).values(seal=seal)).rowcount
    return sealed


def _seal_headers(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    key = audit_key.keyring_of(connection).for_seals(connection)
    c = study_header.c
    for row in rows:
        # a worker may have replaced it meanwhile, and sealed it
        same = (c.file_id == row.file_id) & (c.header == row.header) & c.seal.is_not_distinct_from(row.seal)
        connection.execute(update(study_header).where(same).values(seal=seals.seal_header(key, row._asdict())))


# ---------------------------------------------------------------------- rows


def _pages(engine: Engine, table: Any, *conditions: Any) -> Iterator[Sequence[Row[Any]]]:
    (key,) = table.primary_key.columns
    columns = (key, table.c.instance_id, table.c.bundle_id, table.c.seal) if table is assessment else tuple(table.c)
    statement = select(*columns).where(*conditions).order_by(key).limit(_PAGE)

    def key_of(row: Row[Any]) -> int:
        value: int = row._mapping[key]  # noqa: SLF001 - SQLAlchemy's access by column
        return value

    return read_pages(engine, lambda c, after: c.execute(statement.where(key > after)).all(), key_of, 0)


def _with_findings(row: Row[Any], findings: list[list[str]]) -> AuditedContent:
    return AuditedContent(reading.name, {**row._asdict(), "findings": findings})


def _findings_of(connection: Connection, reading_ids: Sequence[int]) -> dict[int, list[list[str]]]:
    c = reading_finding.c
    rows = connection.execute(select(reading_finding).where(column_in(connection, c.reading_id, reading_ids)))
    findings_: dict[int, list[list[str]]] = {}
    for row in rows:
        findings_.setdefault(row.reading_id, []).append([row.finding, row.presence])
    return {reading_id: sorted(findings) for reading_id, findings in findings_.items()}


def _with_answers(engine: Engine, rows: Sequence[Row[Any]]) -> Iterator[tuple[Row[Any], list[Any]]]:
    ids = [row.id for row in rows]
    findings = read(
        engine, lambda c: c.execute(select(finding).where(column_in(c, finding.c.assessment_id, ids))).all()
    )
    answers: dict[int, list[Any]] = {}
    for finding_ in findings:
        answers.setdefault(finding_.assessment_id, []).append(finding_._asdict())
    for row in rows:
        yield row, answers.get(row.id, [])
