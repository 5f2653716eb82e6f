"""Which bundle is in use, which one works in its shadow, and which were withdrawn: written down with time and person.

Choosing a bundle changes what films are assessed with from then on, and no result that is there: each names its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from preread.core.errors import BundleWithdrawn, UsageError
from preread.core.text.escaping import clean_text
from preread.db.admin_schema import Part, activation
from preread.db.engine import database_now, read, write
from preread.db.schema import bundle
from preread.ledger.commits import register_bundle
from preread.model.bundles import Bundle
from preread.review import audit
from preread.review.audit import Action

_b, _a = bundle.c, activation.c
# without the manifest: a worker looks every few seconds
_KNOWN = (_b.id, _b.name, _b.version, _b.digest, _b.withdrawn_at, _b.withdrawn_reason)


@dataclass(frozen=True, slots=True)
class Known:
    """A bundle that the database knows. ``withdrawn``: why it was, ``None`` while it is not."""

    bundle_id: int
    label: str
    digest: str
    withdrawn: str | None
    withdrawn_at: datetime | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Who chose a bundle, and when. ``bundle``: ``None`` for the default one, or for no shadow."""

    part: Part
    bundle: Known | None
    at: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands now.

    Attributes:
        active: the last choice of the bundle in use; ``None`` while nobody chose one.
        shadow: the last choice of a shadow.
        bundles: every bundle that the database knows, by digest.
    """

    active: Choice | None
    shadow: Choice | None
    bundles: dict[str, Known]

    def refuse_withdrawn(self, digest: str, label: str) -> None:
        """Raise ``BundleWithdrawn`` where this bundle was withdrawn."""
        known = self.bundles.get(digest)
        if known is not None and known.withdrawn is not None:
            raise BundleWithdrawn(f"the bundle {label} was withdrawn: {known.withdrawn}")


def look(engine: Engine) -> Standing:
    """Return how it stands."""

    def body(connection: Connection) -> Standing:
        known = {row.id: _known(row) for row in connection.execute(select(*_KNOWN).order_by(_b.id))}
        last = [_last(connection, known, part) for part in (Part.ACTIVE, Part.SHADOW)]
        return Standing(last[0], last[1], {one.digest: one for one in known.values()})

    return read(engine, body)


def choices(engine: Engine, limit: int = 100) -> list[Choice]:
    """Return who chose what, the last first."""

    def body(connection: Connection) -> list[Choice]:
        known = {row.id: _known(row) for row in connection.execute(select(*_KNOWN))}
        rows = connection.execute(select(activation).order_by(_a.id.desc()).limit(limit))
        return [_choice(row, known) for row in rows]

    return read(engine, body)


def find(engine: Engine, wanted: str) -> list[Known]:
    """Return the bundles that the database knows as ``name/version`` or as ``version``.

    Raises:
        UsageError: there is none, or bundles of several names have this version.
    """
    found = [one for one in look(engine).bundles.values() if wanted in {one.label, one.label.split("/")[1]}]
    if not found:
        raise UsageError(f"no film here was ever assessed with a bundle {wanted}")
    if len({one.label for one in found}) > 1:
        raise UsageError(f"several bundles have the version {wanted}: write NAME/VERSION")
    return found


def activate(engine: Engine, actor: str, chosen: Bundle) -> None:
    """Choose the bundle that films are assessed with from now on.

    Raises:
        BundleWithdrawn: it was withdrawn.
    """
    write(engine, lambda connection, _: _choose(connection, actor, Part.ACTIVE, chosen))


def shadow(engine: Engine, actor: str, chosen: Bundle | None) -> None:
    """Choose the bundle that works in the shadow, or none.

    Raises:
        BundleWithdrawn: it was withdrawn.
    """
    write(engine, lambda connection, _: _choose(connection, actor, Part.SHADOW, chosen))


def rollback(engine: Engine, actor: str) -> Known | None:
    """Choose the bundle that was in use before; return it, ``None`` for the default one.

    Raises:
        UsageError: none was ever chosen.
    """

    def body(connection: Connection, _again: bool) -> Known | None:
        known = {row.id: _known(row) for row in connection.execute(select(*_KNOWN))}
        rows = connection.execute(select(activation).where(_a.part == Part.ACTIVE).order_by(_a.id.desc())).all()
        if not rows:
            raise UsageError("no bundle was ever chosen here, so that there is none to go back to")
        before = [row.bundle_id for row in rows if row.bundle_id != rows[0].bundle_id]
        usable = [one for one in before if one is None or known[one].withdrawn is None]
        # before the first choice it was the default one
        to = usable[0] if usable else None
        if to is None and rows[0].bundle_id is None:
            raise UsageError("the default bundle is in use, and those before it were withdrawn")
        _note(connection, actor, Part.ACTIVE, to)
        return None if to is None else known[to]

    return write(engine, body)


def withdraw(engine: Engine, actor: str, bundles: list[Known], reason: str) -> None:
    """Withdraw these bundles; one that was before keeps its reason. A shadow that is withdrawn ends."""
    said = clean_text(reason)
    if said is None:
        raise UsageError("say why: the reason stands beside every result")

    def body(connection: Connection, _again: bool) -> None:
        ids = [one.bundle_id for one in bundles]
        now = database_now(connection)
        changed = connection.execute(
            update(bundle)
            .where(_b.id.in_(ids), _b.withdrawn_at.is_(None))
            .values(withdrawn_at=now, withdrawn_reason=said)
            .returning(_b.id)
        )
        for bundle_id in sorted(changed.scalars()):
            audit.append(connection, actor, Action.BUNDLE_WITHDRAWN, f"bundle:{bundle_id}")
        last = _last_row(connection, Part.SHADOW)
        if last is not None and last.bundle_id in ids:
            _note(connection, actor, Part.SHADOW, None)

    write(engine, body)


def _choose(connection: Connection, actor: str, part: Part, chosen: Bundle | None) -> None:
    bundle_id = None
    if chosen is not None:
        bundle_id = register_bundle(connection, database_now(connection), **chosen.registration)
    _note(connection, actor, part, bundle_id)


def _note(connection: Connection, actor: str, part: Part, bundle_id: int | None) -> None:
    row = {"part": part.value, "bundle_id": bundle_id, "at": database_now(connection), "actor": actor}
    connection.execute(insert(activation), row)
    of = "none" if bundle_id is None else str(bundle_id)
    audit.append(connection, actor, Action.BUNDLE_CHOSEN, f"{part.value}:bundle:{of}")


def _last_row(connection: Connection, part: Part) -> Row[Any] | None:
    last = select(activation).where(_a.part == part).order_by(_a.id.desc()).limit(1)
    return connection.execute(last).one_or_none()


def _last(connection: Connection, known: dict[int, Known], part: Part) -> Choice | None:
    row = _last_row(connection, part)
    return None if row is None else _choice(row, known)


def _choice(row: Row[Any], known: dict[int, Known]) -> Choice:
    return Choice(Part(row.part), known.get(row.bundle_id), row.at, row.actor)


def _known(row: Any) -> Known:
    reason = None if row.withdrawn_at is None else (row.withdrawn_reason or "")
    return Known(row.id, f"{row.name}/{row.version}", row.digest, reason, row.withdrawn_at)
