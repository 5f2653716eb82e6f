"""A ledger on a fresh database, with a clock that the test moves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Connection, Engine, select

from preread.core.types import Answer, Caveat, FileState, Finding, Identity, Population
from preread.db import schema
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, ContentAssessment, FileFacts, Observation, Version
from tests.support.outcomes import commit_assessed, header_of

DIGEST = "d" * 64


def content_of(answer: Answer = Answer.FLAGGED, probability: float = 0.9) -> ContentAssessment:
    """What a slot would say of some film."""
    return ContentAssessment(
        findings=(Finding("pneumonia", 2.2, probability, 0.3, answer),),
        pixel_caveats=(Caveat.NO_WINDOW,),
        decoder="pillow 12",
        activation_map=np.arange(49, dtype=np.float32).reshape(7, 7, 1),
    )


@dataclass
class LedgerBench:
    """One worker's ledger with a root and a bundle, and short words for what tests do."""

    engine: Engine
    now: datetime
    ledger: Ledger = field(init=False)
    root_id: int = field(init=False)
    bundle_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = self.worker("one")
        self.root_id = self.ledger.register_root(b"/srv/inbox")
        self.bundle_id = self.ledger.register_bundle(name="films", version="1", digest=DIGEST)

    def worker(self, worker_id: str) -> Ledger:
        return Ledger(self.engine, worker_id=worker_id, lease_s=60, clock=self._clock)

    def _clock(self, _connection: Connection) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def see(self, path: bytes, size_bytes: int = 100, mtime_ns: int = 1, inode: int = 1) -> Version:
        return self.ledger.observe(self.root_id, [Observation(path, size_bytes, mtime_ns, inode)])[path]

    def ready(self, *paths: bytes, size_bytes: int = 100, mtime_ns: int = 1) -> list[Version]:
        seen = self.ledger.observe(self.root_id, [Observation(path, size_bytes, mtime_ns) for path in paths])
        assert self.ledger.settle(seen.values()) == len(paths)
        return [seen[path] for path in paths]

    def claim(self, limit: int = 1, ledger: Ledger | None = None) -> list[Claim]:
        return (ledger or self.ledger).claim([self.root_id], limit)

    def claimed(self, path: bytes = b"film.dcm", **version: int) -> Claim:
        self.ready(path, **version)
        (claim,) = self.claim()
        assert claim.path == path
        return claim

    def newest(self, path: bytes) -> Version:
        return self.ledger.newest_versions(self.root_id, [path])[path]

    def state(self, path: bytes = b"film.dcm") -> FileState:
        return self.newest(path).state

    def row(self, file_id: int) -> dict[str, object]:
        with self.engine.connect() as connection:
            found = connection.execute(select(schema.file).where(schema.file.c.id == file_id)).one()
            return dict(found._mapping)

    def moves(self, file_id: int) -> list[tuple[str | None, str]]:
        columns = schema.transition.c
        with self.engine.connect() as connection:
            statement = select(columns.from_state, columns.to_state).where(columns.file_id == file_id)
            return [(row.from_state, row.to_state) for row in connection.execute(statement.order_by(columns.id))]

    def count(self, table: str) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(schema.metadata.tables[table])).all())

    def facts(self, content: bytes = b"film", uid: str | None = None, **identity: str) -> FileFacts:
        who = replace(Identity(sop_instance_uid=uid), **identity)  # type: ignore[arg-type]
        return FileFacts(
            sha256=hashlib.sha256(content).hexdigest(),
            identity=who,
            study_header=header_of(who),
            format="DICOM",
            population=Population.CHILDREN_1_5Y,
            gate_caveats=(Caveat.AGE_DECLARED,),
            ms=12.5,
        )

    def assess(
        self,
        path: bytes,
        content: bytes = b"film",
        uid: str | None = None,
        answer: Answer = Answer.FLAGGED,
        mtime_ns: int = 1,
        **identity: str,
    ) -> int:
        """Take one film the whole way; return its file id."""
        claim = self.claimed(path, mtime_ns=mtime_ns)
        facts = self.facts(content, uid, **identity)
        assert commit_assessed(self.ledger, claim, facts, self.bundle_id, content_of(answer))
        return claim.file_id

    def attempts(self, file_id: int) -> tuple[object, object]:
        row = self.row(file_id)
        return row["attempts"], row["interruptions"]
