"""Rows of every kind, written by the ledger itself, for tests that look at a database as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sqlalchemy import Engine, insert

from preread.core.errors import TruncatedPixels
from preread.core.types import Answer, Finding, Identity, Population, RefusalCode, Role
from preread.db import review_schema
from preread.db.engine import database_now, write
from preread.ledger.ledger import Ledger
from preread.ledger.records import ContentAssessment, FileFacts, Observation
from preread.review import disclosures, results
from preread.review.auth import accounts
from tests.support.outcomes import commit_assessed, commit_refused, commit_unreadable


def fill(engine: Engine, name: bytes = b"film", bundle: Mapping[str, str] | None = None) -> None:
    """Add an assessed, a refused, an unreadable, a claimed and a waiting film, account, list, reading, audit rows."""
    ledger = Ledger(engine, worker_id=f"worker of {name.decode()}", lease_s=3600)
    ledger.heartbeat()
    root_id = ledger.register_root(b"/srv/inbox")
    bundle_id = ledger.register_bundle(**{"name": "films", "version": "1", "digest": "d" * 64} | dict(bundle or {}))
    names = [name + bytes([48 + number]) for number in range(5)]
    ledger.settle(ledger.observe(root_id, [Observation(one, 10, 1) for one in names]).values())
    assessed, refused, unreadable, _ = ledger.claim([root_id], 4)
    content = ContentAssessment(
        (Finding("pneumonia", 1.0, 0.7, 0.5, Answer.FLAGGED),), (), "numpy", np.zeros((2, 2), np.float32)
    )

    def facts(sha256: str) -> FileFacts:
        identity = Identity(patient_id="P1", patient_name="Doe\\^J\n\\.")  # what a dump has to escape
        return FileFacts(sha256 * 64, identity, "DICOM", None, 10, 12, Population.UNDECLARED, (), 1.0)

    assert commit_assessed(ledger, assessed, facts("a"), bundle_id, content)
    assert commit_refused(ledger, refused, facts("b"), bundle_id, RefusalCode.VIEW, "lateral")
    assert commit_unreadable(ledger, unreadable, TruncatedPixels(), facts("c"))
    accounts.add_account(engine, "uid:0", accounts.NewAccount(name.decode(), "Program", Role.SERVICE, None))
    account_id = accounts.find_account(engine, name.decode()).account_id
    disclosures.record_list_view(engine, f"account:{account_id}", results.query_results(engine))
    reading = {
        "file_id": assessed.file_id,
        "account_id": account_id,
        "outcome": "assessed",
        "verdict": "accepted",
        "comment": "two\nlines",
        "answer_visible": True,
        "waited_s": 1.0,
        "form_token": name.hex(),
    }
    write(
        engine,
        lambda connection, _: connection.execute(
            insert(review_schema.reading), {**reading, "signed_at": database_now(connection)}
        ),
    )
