"""Retry delays that double from failure to failure, up to a limit."""

from __future__ import annotations

_MOST_DOUBLINGS = 64


class Backoff:
    """Retry delays, doubled after each failure up to a limit.

    Args:
        first_s: delay after the first failure in seconds.
        longest_s: longest delay in seconds.

    Attributes:
        failures: number of delays given out since the last ``reset``.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self.failures = 0
        self._first_s = first_s
        self._longest_s = longest_s

    def after(self, failures: int) -> float:
        """Return the retry delay in seconds after a number of failures.

        Args:
            failures: consecutive failures, at least 1.
        """
        return min(self._first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), self._longest_s)

    def next_s(self) -> float:
        """Count a failure and return the delay in seconds before the next try."""
        self.failures += 1
        return self.after(self.failures)

    def reset(self) -> None:
        """Restart retry delays with the first one, after a success."""
        self.failures = 0
