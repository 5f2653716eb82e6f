"""Answers to inference processes that ask whether a content is known."""

from __future__ import annotations

from typing import Any

from preread.core.errors import DatabaseAway
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.runner.pool import InferencePool


class ContentGate:
    """Lets each content be assessed by one inference process at a time.

    A second process with the same bytes waits for the commit of the first.

    Args:
        digest: of the bundle in use.
    """

    def __init__(self, ledger: Ledger, pool: InferencePool[Any], digest: str) -> None:
        self._ledger = ledger
        self._pool = pool
        self._digest = digest
        self._assessing: dict[int, str] = {}
        self._waiting: list[tuple[Claim, str]] = []

    @property
    def waiting(self) -> bool:
        """``True`` if an inference process waits for an answer."""
        return bool(self._waiting)

    def ask(self, claim: Claim, sha256: str) -> None:
        """Add the question of a process that has read the bytes of its file."""
        self._waiting.append((claim, sha256))

    def withdraw(self, claim: Claim) -> None:
        """Drop the question of a file that has ended."""
        self._waiting = [(other, sha256) for other, sha256 in self._waiting if other != claim]

    def committed(self, claim: Claim) -> None:
        """Let others have the content of a file whose outcome is in the ledger."""
        self._assessing.pop(claim.file_id, None)

    def answer(self, *, database_away: bool) -> bool:
        """Answer what can be answered now.

        Args:
            database_away: nothing is known then, and nothing waits for a commit.

        Returns:
            Whether a process waits for an outcome that is not committed yet.
        """
        waiting, self._waiting = self._waiting, []
        for claim, sha256 in waiting:
            if not database_away and sha256 in self._assessing.values():
                self._waiting.append((claim, sha256))
                continue
            known, forgotten = self._look_up(sha256)
            if forgotten:
                self._pool.answer(claim, known=False, forgotten=True)
                continue
            if not known:
                self._assessing[claim.file_id] = sha256
            self._pool.answer(claim, known=known)
        return self.waiting

    def _look_up(self, sha256: str) -> tuple[bool, bool]:
        try:
            return self._ledger.content_status(sha256, self._digest)
        except DatabaseAway:
            return False, False  # it is assessed again; the commit checks again and keeps the first assessment
