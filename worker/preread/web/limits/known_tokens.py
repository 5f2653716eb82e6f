"""Cache of valid tokens, to tell them from guesses without a query."""

from __future__ import annotations

from collections import OrderedDict

from preread.review.auth.accounts import hash_token

_AT_MOST = 10_000


class KnownTokens:
    """Digests of tokens that were valid at their last lookup, bounded."""

    def __init__(self, at_most: int = _AT_MOST) -> None:
        self._at_most = at_most
        self._digests: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, token: str) -> bool:
        return hash_token(token) in self._digests

    def record(self, token: str, valid: bool) -> None:
        """Add a valid token, or remove an invalid one."""
        key = hash_token(token)
        self._digests.pop(key, None)
        if valid:
            self._digests[key] = None
            while len(self._digests) > self._at_most:
                self._digests.popitem(last=False)
