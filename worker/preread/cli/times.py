"""Points in time as people write them: ISO 8601, or how long ago."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from preread.core.errors import UsageError

_AGO = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_UNIT = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def since(text: str, now: datetime) -> datetime:
    """Read ``2h``, ``3d``, ``2026-03-31``, ``2026-03-31T14:00`` or the same with an offset.

    Args:
        now: aware; what a duration is counted back from.

    Returns:
        An aware time; one without an offset is this machine's local time.

    Raises:
        UsageError: it is none of these.
    """
    written = text.strip()
    try:
        if ago := _AGO.fullmatch(written.lower()):
            return now - timedelta(**{_UNIT[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(written).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no time: write 2h, 3d, 2026-03-31 or 2026-03-31T14:00") from None
