"""Shadow bundle: assesses what the bundle in use has, without display.

A file is due once its live result is committed, when no file waits and a process has nothing else to do. It is read
again, and its content must be the same. Failures are recorded beside the shadow and change no file's state.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, exists, select, tuple_

from preread.core.errors import DatabaseAway, EnvironmentFault, FileChanged, FileLocked, FileVanished, SlotError
from preread.core.types import FileState, Finding, Outcome
from preread.db import schema
from preread.db.admin_schema import shadow, shadow_finding
from preread.db.engine import database_now, read, write
from preread.db.statements import insert_or_skip
from preread.ledger.commits import finding_rows
from preread.runner.child.protocol import Report
from preread.runner.pool import Done, Event, Lost, Read

_LOG = logging.getLogger(__name__)
_PAGE = 100
_FAULTS_AT_MOST = 5
# A transaction that was slow to commit shows files that are older than the last one seen.
_LOOK_BACK = timedelta(seconds=60)
_f, _s = schema.file.c, shadow.c


@dataclass(frozen=True, slots=True)
class ShadowFile:
    """File that the bundle in the shadow is to assess."""

    file_id: int
    instance_id: int
    root_id: int
    path: bytes
    size_bytes: int
    mtime_ns: int
    sha256: str


class Shadow:
    """Work of one worker for its bundle in the shadow.

    Args:
        engine: the database.
        active_id: the bundle in use.
        shadow_id: the one in the shadow.
        since: files with a result from then on are assessed.
        within: of these files alone; it may grow. ``None``: of all.
    """

    def __init__(
        self,
        engine: Engine,
        active_id: int,
        shadow_id: int,
        since: datetime,
        within: Collection[int] | None = None,
    ) -> None:
        self.exhausted = False
        """No file was due at the last query, files in hand apart."""
        self._engine = engine
        self._active_id = active_id
        self._shadow_id = shadow_id
        self._from = (since, 0)
        self._within = within
        self._due: list[ShadowFile] = []
        self._in_hand: set[int] = set()
        self._faults = 0

    def films(self, root_ids: Sequence[int], count: int) -> list[ShadowFile]:
        """Return up to ``count`` files that are due."""
        if self._faults >= _FAULTS_AT_MOST:
            self.exhausted = True
            return []
        if count < 1 or not root_ids:
            return []
        if not self._due:
            self._due = read(self._engine, lambda connection: self._look(connection, root_ids))
            self.exhausted = not self._due
        given, self._due = self._due[:count], self._due[count:]
        self._in_hand.update(film.instance_id for film in given)
        return given

    def handle(self, event: Event[ShadowFile]) -> None:
        """Record the outcome of one file."""
        film = event.ticket
        if isinstance(event, Read):
            return
        try:
            if isinstance(event, Done):
                self._faults = 0
                self._note(film, event.report)
            elif isinstance(event, Lost) or isinstance(event.error, FileChanged | FileLocked | FileVanished):
                self._failed(film, event.error)
            else:
                # the share or the shadow bundle itself: tried again, but not for ever
                self._faults += 1
                self.exhausted = False
                extra = {"code": event.error.code, "file_id": film.file_id, "tries": self._faults}
                _LOG.warning("shadow_failed", extra=extra)
        except DatabaseAway as error:
            _LOG.warning("shadow_failed", extra={"code": error.code, "file_id": film.file_id})
        self._in_hand.discard(film.instance_id)

    def _look(self, connection: Connection, root_ids: Sequence[int]) -> list[ShadowFile]:
        at, file_id = self._from
        there = exists().where(_s.instance_id == _f.instance_id, _s.bundle_id == self._shadow_id)
        statement = (
            select(_f.id, _f.instance_id, _f.root_id, _f.path, _f.size_bytes, _f.mtime_ns, _f.committed_at)
            .add_columns(schema.instance.c.sha256)
            .join(schema.instance, schema.instance.c.id == _f.instance_id)
            .where(tuple_(_f.committed_at, _f.id) > tuple_(at, file_id))
            .where(_f.bundle_id == self._active_id, _f.state == FileState.DONE, _f.newest, ~there)
            .where(_f.root_id.in_(root_ids))
            .order_by(_f.committed_at, _f.id)
            .limit(_PAGE)
        )
        if self._within is not None:
            statement = statement.where(_f.id.in_(self._within))
        rows = connection.execute(statement).all()
        if rows:
            self._from = max((rows[0].committed_at - _LOOK_BACK, 0), self._from)
        found = {row.instance_id: row for row in rows if row.instance_id not in self._in_hand}
        return [
            ShadowFile(row.id, row.instance_id, row.root_id, row.path, row.size_bytes, row.mtime_ns, row.sha256)
            for row in found.values()
        ]

    def _note(self, film: ShadowFile, report: Report) -> None:
        if report.sha256 != film.sha256:
            # other bytes lie there by now; they get a result of their own
            self._insert(film, Outcome.UNREADABLE, FileChanged.code, ())
            return
        content = report.content
        self._insert(film, report.outcome, report.code, () if content is None else content.findings)

    def _failed(self, film: ShadowFile, error: SlotError | EnvironmentFault) -> None:
        _LOG.warning("shadow_failed", extra={"code": error.code, "file_id": film.file_id})
        self._insert(film, Outcome.UNREADABLE, error.code, ())

    def _insert(self, film: ShadowFile, outcome: Outcome, code: str | None, findings: Sequence[Finding]) -> None:
        def body(connection: Connection, _again: bool) -> None:
            row: schema.Row = {
                "instance_id": film.instance_id,
                "bundle_id": self._shadow_id,
                "outcome": outcome,
                "code": code,
                "at": database_now(connection),
            }
            # a file that was forgotten meanwhile has no content to hang this on
            held = select(schema.instance.c.id).where(schema.instance.c.id == film.instance_id).with_for_update()
            if connection.execute(held).first() is None:
                return
            for (shadow_id,) in insert_or_skip(connection, shadow, [row]):
                if rows := finding_rows(findings, shadow_id=shadow_id):
                    connection.execute(shadow_finding.insert(), rows)

        write(self._engine, body)
