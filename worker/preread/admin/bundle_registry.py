"""Registry of model bundles: active, shadow and withdrawn.

Each change is recorded with time, account and an audit entry. A selection applies to images assessed from then on;
existing results keep the bundle they name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from preread.core.errors import BundleWithdrawn, UsageError
from preread.core.text.escaping import clean_text
from preread.db.admin_schema import Part, activation
from preread.db.engine import database_now, write
from preread.db.schema import bundle
from preread.ledger.commits import register_bundle
from preread.ledger.transaction import Transaction, query, transaction
from preread.model.bundles import Bundle
from preread.review import audit
from preread.review.audit import Action

_b, _a = bundle.c, activation.c
# without the manifest: a worker queries this every few seconds
_KNOWN = (_b.id, _b.name, _b.version, _b.digest, _b.withdrawn_at, _b.withdrawn_reason)


@dataclass(frozen=True, slots=True)
class KnownBundle:
    """A bundle registered in the database.

    Attributes:
        bundle_id: row id.
        label: ``name/version``.
        digest: SHA-256 of the bundle in hexadecimal.
        withdrawn: reason of its withdrawal, or ``None`` if it is not withdrawn.
        withdrawn_at: time of its withdrawal, or ``None``.
    """

    bundle_id: int
    label: str
    digest: str
    withdrawn: str | None
    withdrawn_at: datetime | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One recorded selection of the active or the shadow bundle.

    Attributes:
        part: active or shadow.
        bundle: selected bundle; ``None`` for the default bundle, or for no shadow.
        at: time of the selection.
        actor: who selected it, as in the audit trail.
    """

    part: Part
    bundle: KnownBundle | None
    at: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The active and the shadow bundle that the database selects.

    Attributes:
        active: last selection of the active bundle; ``None`` if there was none.
        shadow: last selection of the shadow bundle; ``None`` if there was none.
        bundles: all registered bundles by digest.
    """

    active: Choice | None
    shadow: Choice | None
    bundles: dict[str, KnownBundle]

    def refuse_withdrawn(self, digest: str, label: str) -> None:
        """Raise ``BundleWithdrawn`` if the bundle with this digest was withdrawn.

        Args:
            digest: SHA-256 of the bundle in hexadecimal.
            label: ``name/version``, for the message.

        Raises:
            BundleWithdrawn: it was withdrawn.
        """
        known = self.bundles.get(digest)
        if known is not None and known.withdrawn is not None:
            raise BundleWithdrawn(f"the bundle {label} was withdrawn: {known.withdrawn}")


@query
def current_selection(tx: Transaction) -> Selection:
    """Return which bundles the database selects as active and as shadow.

    Raises:
        DatabaseAway, SchemaOutdated: the database cannot be read.
    """
    by_id = {row.id: _known(row) for row in tx.connection.execute(select(*_KNOWN).order_by(_b.id))}
    last = [_last(tx.connection, by_id, part) for part in (Part.ACTIVE, Part.SHADOW)]
    return Selection(last[0], last[1], {bundle_.digest: bundle_ for bundle_ in by_id.values()})


def find_bundles(engine: Engine, label: str) -> list[KnownBundle]:
    """Return the bundles of the database with this version or name.

    Args:
        engine: database.
        label: ``name/version``, or ``version`` alone.

    Raises:
        UsageError: there is none, or bundles of several names have this version.
    """
    matching = [
        known
        for known in current_selection(engine).bundles.values()
        if label in {known.label, known.label.split("/")[1]}
    ]
    if not matching:
        raise UsageError(f"the database has no bundle {label}: no image was assessed with it")
    if len({known.label for known in matching}) > 1:
        raise UsageError(f"several bundles have the version {label}: write NAME/VERSION")
    return matching


def activate_bundle(engine: Engine, actor: str, chosen: Bundle) -> None:
    """Select the bundle for images assessed from now on.

    Raises:
        BundleWithdrawn: it was withdrawn.
    """
    write(engine, lambda connection, _: _choose(connection, actor, Part.ACTIVE, chosen))


def select_shadow(engine: Engine, actor: str, chosen: Bundle | None) -> None:
    """Select the shadow bundle; ``None`` ends it.

    Args:
        engine: database.
        actor: who selects it, for the audit trail.
        chosen: the bundle; ``None`` ends the shadow.

    Raises:
        BundleWithdrawn: it was withdrawn.
    """
    write(engine, lambda connection, _: _choose(connection, actor, Part.SHADOW, chosen))


@transaction
def activate_previous_bundle(tx: Transaction, actor: str) -> KnownBundle | None:
    """Select the bundle that was active before the current one.

    Returns:
        The selected bundle; ``None`` for the default bundle.

    Raises:
        UsageError: no bundle was ever selected, or every earlier one was withdrawn.
    """
    known = {row.id: _known(row) for row in tx.connection.execute(select(*_KNOWN))}
    rows = tx.connection.execute(select(activation).where(_a.part == Part.ACTIVE).order_by(_a.id.desc())).all()
    if not rows:
        raise UsageError("no bundle was activated before: there is none to return to")
    before = [row.bundle_id for row in rows if row.bundle_id != rows[0].bundle_id]
    usable = [bundle_id for bundle_id in before if bundle_id is None or known[bundle_id].withdrawn is None]
    # before the first selection the default bundle was active
    target = usable[0] if usable else None
    if target is None and rows[0].bundle_id is None:
        raise UsageError("the default bundle is in use, and all bundles before it were withdrawn")
    _record(tx.connection, actor, Part.ACTIVE, target)
    return None if target is None else known[target]


@transaction
def withdraw_bundles(tx: Transaction, actor: str, bundles: list[KnownBundle], reason: str) -> None:
    """Withdraw bundles in the database, with a reason.

    Args:
        tx: database, or transaction to take part in.
        actor: who withdraws them, for the audit trail.
        bundles: bundles to withdraw; one that is withdrawn already keeps its reason.
        reason: shown beside every result of the bundles.

    Raises:
        UsageError: the reason is empty.
    """
    cleaned = clean_text(reason)
    if cleaned is None:
        raise UsageError("the reason is empty: state one, which is shown with every result")

    ids = [known.bundle_id for known in bundles]
    changed = tx.connection.execute(
        update(bundle)
        .where(_b.id.in_(ids), _b.withdrawn_at.is_(None))
        .values(withdrawn_at=tx.now, withdrawn_reason=cleaned)
        .returning(_b.id)
    )
    for bundle_id in sorted(changed.scalars()):
        audit.append_entry(tx.connection, actor, Action.BUNDLE_WITHDRAWN, f"bundle:{bundle_id}")
    last = _last_row(tx.connection, Part.SHADOW)
    if last is not None and last.bundle_id in ids:
        _record(tx.connection, actor, Part.SHADOW, None)


def _choose(connection: Connection, actor: str, part: Part, chosen: Bundle | None) -> None:
    bundle_id = None
    if chosen is not None:
        bundle_id = register_bundle(Transaction(connection), **chosen.registration)
    _record(connection, actor, part, bundle_id)


def _record(connection: Connection, actor: str, part: Part, bundle_id: int | None) -> None:
    """Insert one selection and its audit entry."""
    row = {"part": part.value, "bundle_id": bundle_id, "at": database_now(connection), "actor": actor}
    connection.execute(insert(activation), row)
    target = "none" if bundle_id is None else str(bundle_id)
    audit.append_entry(connection, actor, Action.BUNDLE_CHOSEN, f"{part.value}:bundle:{target}")


def _last_row(connection: Connection, part: Part) -> Row[Any] | None:
    last = select(activation).where(_a.part == part).order_by(_a.id.desc()).limit(1)
    return connection.execute(last).one_or_none()


def _last(connection: Connection, known: dict[int, KnownBundle], part: Part) -> Choice | None:
    row = _last_row(connection, part)
    return None if row is None else _choice(row, known)


def _choice(row: Row[Any], known: dict[int, KnownBundle]) -> Choice:
    return Choice(Part(row.part), known.get(row.bundle_id), row.at, row.actor)


def _known(row: Any) -> KnownBundle:
    reason = None if row.withdrawn_at is None else (row.withdrawn_reason or "")
    return KnownBundle(row.id, f"{row.name}/{row.version}", row.digest, reason, row.withdrawn_at)
