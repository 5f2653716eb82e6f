"""Tokens that were valid when they were last looked up: told from guesses without asking the database."""

from __future__ import annotations

from collections import OrderedDict

from preread.review.auth.accounts import digest

_AT_MOST = 10_000


class Known:
    """Tokens that were valid when they were last looked up, by their digests, within bounds."""

    def __init__(self, at_most: int = _AT_MOST) -> None:
        self._at_most = at_most
        self._digests: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, token: str) -> bool:
        return digest(token) in self._digests

    def note(self, token: str, valid: bool) -> None:
        """Remember, or forget, a token."""
        key = digest(token)
        self._digests.pop(key, None)
        if valid:
            self._digests[key] = None
            while len(self._digests) > self._at_most:
                self._digests.popitem(last=False)
