"""Proof that reviews, viewings, accounts and results are as recorded.

Audit entries carry keyed digests of reviews, viewings and accounts (``audit.Content``); results carry seals of their
own (``db.seals``), since workers write no entries. A purge legitimately removes rows: its entries name the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from preread.core.types import Outcome
from preread.db import audit_key, seals
from preread.db.audit_key import Key
from preread.db.engine import read, write
from preread.db.review_schema import account, reading, reading_finding, viewing
from preread.db.review_schema import audit as audit_table
from preread.db.schema import among, assessment, file, finding, study_header
from preread.db.statements import read_pages
from preread.review import audit
from preread.review.audit import Action, Chain, Content, Head

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
    """Result of a verification.

    Attributes:
        chain: verified chain of entries.
        faults: one sentence for each row that differs.
        unsealed: number of results and study headers without a seal of an available key.
    """

    chain: Chain
    faults: list[str] = field(default_factory=list)
    unsealed: int = 0


def of_reading(connection: Connection, reading_id: int) -> Content:
    """Return the covered content of a review: its row and its findings."""
    row = connection.execute(select(reading).where(reading.c.id == reading_id)).one()
    return _with_findings(row, _findings_of(connection, [reading_id]).get(reading_id, []))


def of_viewing(connection: Connection, viewing_id: int) -> Content:
    """Return the covered content of a viewing."""
    return Content(viewing.name, connection.execute(select(viewing).where(viewing.c.id == viewing_id)).one()._asdict())


def of_account(connection: Connection, account_id: int) -> Content:
    """Return the covered content of an account."""
    return audit.of_account(connection.execute(select(account).where(account.c.id == account_id)).one())


def append_forgotten(connection: Connection, actor: str, file_ids: Sequence[int], *, readings: bool) -> None:
    """Record which images lose viewings, and reviews, by a purge.

    Call it before the purge, in its transaction.

    Args:
        connection: transaction.
        actor: see ``audit.append``.
        file_ids: file versions to purge.
        readings: reviews are deleted, too.
    """
    affected: set[int] = set()
    for table in (viewing, reading) if readings else (viewing,):
        affected.update(connection.execute(select(table.c.file_id).where(table.c.file_id.in_(file_ids))).scalars())
    ending = ":readings" if readings else ""
    objects = ((f"{_FILMS}{file_id}{ending}", None) for file_id in sorted(affected))
    audit.append_all(connection, actor, Action.FORGOTTEN, objects)


# ---------------------------------------------------------------------- verifying


def verify(engine: Engine, known: Iterable[Head] = ()) -> Proof:
    """Verify the chain and everything its entries cover.

    Args:
        engine: database.
        known: heads recorded earlier, which the chain must contain.

    Returns:
        The proof; ``faults`` is empty if everything is as recorded.

    Raises:
        AuditBroken, AuditKeyMissing: see ``audit.verify``.
    """
    keys = audit_key.of(engine).keys()
    expected = _Expected(keys)
    proof = Proof(audit.verify(engine, known, expected.process))
    if proof.chain.keyed:
        _compare_accounts(engine, expected, proof)
        _compare(engine, "reading", expected.readings, expected.loose, _readings(engine), proof)
        _compare(engine, "viewing", expected.viewings, None, _viewings(engine), proof)
        _compare_results(engine, keys, proof)
    return proof


class _Expected:
    """Digests that must exist according to the entries, by image."""

    def __init__(self, keys: dict[str, Key]) -> None:
        self.keys = keys
        self.accounts: dict[int, tuple[Key, str] | None] = {}
        self.readings: dict[int, dict[tuple[str, str], int]] = {}
        self.viewings: dict[int, dict[tuple[str, str], int]] = {}
        self.loose: set[int] = set()  # films with readings of which no entry has a digest

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
            proof.faults.append(f"account {account_id} was added by no entry")
            continue
        proven = expected.accounts[account_id]
        if proven is not None and audit.of_account(row).digest(proven[0]) != proven[1]:
            proof.faults.append(f"account {account_id} is not what it was: its role, secret, name or state was changed")
    missing = sorted(expected.accounts.keys() - by_id.keys())
    proof.faults += [f"account {account_id} is not there any more" for account_id in missing]


def _compare(
    engine: Engine,
    what: str,
    expected: dict[int, dict[tuple[str, str], int]],
    loose: set[int] | None,
    rows: Iterator[tuple[int, int, Content]],
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
    keys = audit_key.of(engine).keys()
    for row_id, film, content in rows:
        entries = expected.get(film, {})
        key_ids = {key_id for key_id, _ in entries}
        same = [pair for key_id in key_ids if (pair := (key_id, content.digest(keys[key_id]))) in entries]
        for pair in same:
            del entries[pair]
        if not same and loose is not None and film not in loose:
            proof.faults.append(f"{what} {row_id} of film {film} is not what any entry says: it was changed or put in")
    for film, entries in sorted(expected.items()):
        for number in sorted(entries.values()):
            proof.faults.append(f"the {what} of film {film} in row {number} is not there any more as it was")


def _readings(engine: Engine) -> Iterator[tuple[int, int, Content]]:
    for rows in _pages(engine, reading):
        findings = read(engine, lambda connection, rows_=rows: _findings_of(connection, [row.id for row in rows_]))  # type: ignore[misc]
        for row in rows:
            yield row.id, row.file_id, _with_findings(row, findings.get(row.id, []))


def _viewings(engine: Engine) -> Iterator[tuple[int, int, Content]]:
    for rows in _pages(engine, viewing):
        for row in rows:
            yield row.id, row.file_id, Content(viewing.name, row._asdict())


def _compare_results(engine: Engine, keys: dict[str, Key], proof: Proof) -> None:
    for rows in _pages(engine, file, file.c.outcome.in_(_SEALED), file.c.committed_at.is_not(None)):
        for row in rows:
            key = keys.get(seals.key_of(row.seal or ""))
            if key is None:
                proof.unsealed += 1
            elif seals.of_result(key, row.id, row._asdict()) != row.seal:
                proof.faults.append(f"the result of image {row.id} was changed: its content, or its patient")
    for rows in _pages(engine, assessment):
        for row, findings in _with_answers(engine, rows):
            key = keys.get(seals.key_of(row.seal or ""))
            if key is not None and seals.of_answers(key, row.instance_id, row.bundle_id, findings) != row.seal:
                proof.faults.append(f"the answers of assessment {row.id} are not what was written")
    for rows in _pages(engine, study_header):
        for row in rows:
            key = keys.get(seals.key_of(row.seal or ""))
            if key is None:
                proof.unsealed += 1
            elif seals.of_header(key, row._asdict()) != row.seal:
                proof.faults.append(f"the study header of image {row.file_id} was changed")


# ---------------------------------------------------------------------- vouching


def accept(engine: Engine, actor: str, *, anew: bool = False, on_batch: Callable[[], None] = lambda: None) -> int:
    """Accept the current state by new entries and seals.

    Reviews and accounts are recorded by entries, results by seals.

    Args:
        engine: database.
        actor: see ``audit.append``.
        anew: with a new key and whatever was recorded before; else only if this was never completed.
        on_batch: called after each transaction.

    Returns:
        Number of sealed results; 0 if there is no key.

    Raises:
        SettingsError: the key cannot be written, or no file for it is configured.
    """

    def begin(connection: Connection, is_retry: bool) -> bool:
        keyring = audit_key.of(connection)
        completed = select(audit_table.c.id).where(
            audit_table.c.action == Action.VOUCHED, audit_table.c.key_id.is_not(None)
        )
        first = connection.execute(completed.limit(1)).first() is None
        if anew and not is_retry:
            audit_key.renew(connection)
        key = keyring.current(connection)
        last = audit.head_of(connection)
        if key is not None and last.key_id != key.key_id:
            audit.begin_key(connection, actor, key, last, anew=anew)
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
    write(engine, lambda connection, _: audit.append(connection, actor, Action.VOUCHED, f"results:{sealed}"))
    return sealed


def _record_readings(connection: Connection, actor: str, rows: Sequence[Row[Any]]) -> None:
    """Append an entry for each of these reviews."""
    current = connection.execute(select(reading).where(among(connection, reading.c.id, [row.id for row in rows]))).all()
    findings = _findings_of(connection, [row.id for row in current])
    objects = ((f"{_FILMS}{row.file_id}", _with_findings(row, findings.get(row.id, []))) for row in current)
    audit.append_all(connection, actor, Action.READING_KNOWN, objects)


def _seal_answers(engine: Engine, connection: Connection, rows: Sequence[Row[Any]]) -> None:
    key = audit_key.of(connection).for_seals(connection)
    for row, findings in _with_answers(engine, rows):
        seal = seals.of_answers(key, row.instance_id, row.bundle_id, findings)
        connection.execute(update(assessment).where(assessment.c.id == row.id).values(seal=seal))


def _seal_results(connection: Connection, rows: Sequence[Row[Any]]) -> int:
    key = audit_key.of(connection).for_seals(connection)
    c = file.c
    sealed = 0
    for row in rows:
        seal = seals.of_result(key, row.id, row._asdict())
        # a worker may have committed another result meanwhile, and sealed it
        same = (c.id == row.id) & (c.committed_at == row.committed_at) & c.seal.is_not_distinct_from(row.seal)
        sealed += connection.execute(update(file).where(same).values(seal=seal)).rowcount
    return sealed


def _seal_headers(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    key = audit_key.of(connection).for_seals(connection)
    c = study_header.c
    for row in rows:
        # a worker may have replaced it meanwhile, and sealed it
        same = (c.file_id == row.file_id) & (c.header == row.header) & c.seal.is_not_distinct_from(row.seal)
        connection.execute(update(study_header).where(same).values(seal=seals.of_header(key, row._asdict())))


# ---------------------------------------------------------------------- rows


def _pages(engine: Engine, table: Any, *conditions: Any) -> Iterator[Sequence[Row[Any]]]:
    (key,) = table.primary_key.columns
    columns = (key, table.c.instance_id, table.c.bundle_id, table.c.seal) if table is assessment else tuple(table.c)
    statement = select(*columns).where(*conditions).order_by(key).limit(_PAGE)

    def key_of(row: Row[Any]) -> int:
        value: int = row._mapping[key]  # noqa: SLF001 - SQLAlchemy's access by column
        return value

    return read_pages(engine, lambda c, after: c.execute(statement.where(key > after)).all(), key_of, 0)


def _with_findings(row: Row[Any], findings: list[list[str]]) -> Content:
    return Content(reading.name, {**row._asdict(), "findings": findings})


def _findings_of(connection: Connection, reading_ids: Sequence[int]) -> dict[int, list[list[str]]]:
    c = reading_finding.c
    rows = connection.execute(select(reading_finding).where(among(connection, c.reading_id, reading_ids)))
    findings_: dict[int, list[list[str]]] = {}
    for row in rows:
        findings_.setdefault(row.reading_id, []).append([row.finding, row.presence])
    return {reading_id: sorted(findings) for reading_id, findings in findings_.items()}


def _with_answers(engine: Engine, rows: Sequence[Row[Any]]) -> Iterator[tuple[Row[Any], list[Any]]]:
    ids = [row.id for row in rows]
    findings = read(engine, lambda c: c.execute(select(finding).where(among(c, finding.c.assessment_id, ids))).all())
    answers: dict[int, list[Any]] = {}
    for finding_ in findings:
        answers.setdefault(finding_.assessment_id, []).append(finding_._asdict())
    for row in rows:
        yield row, answers.get(row.id, [])
