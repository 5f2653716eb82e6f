"""From a stored code back to the error that has it."""

from __future__ import annotations

from typing import TypeVar

from preread.core.errors import PrereadError

Failure = TypeVar("Failure", bound=PrereadError)


def named(code: str, message: str, among: type[Failure]) -> Failure:
    """Return the error of this code at or below ``among``, or ``among`` itself where the code is none of theirs."""
    pending: list[type[Failure]] = [among]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind(message)
        pending.extend(kind.__subclasses__())
    return among(message)
