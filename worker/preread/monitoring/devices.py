"""Sudden changes of one device: codes that become frequent or rare.

After new software or other settings a device may send images that are refused or rendered with a caveat. The newest
``WINDOW`` images of each device are compared with its earlier images of the last ``DAYS`` days: for each code, the
number of images that have it is tested against its earlier share (exact hypergeometric test in both directions, at
``LEVEL``). Images of one device are no independent draws, since those of one examination come together and shares vary
from day to day; the numbers are therefore divided by the dispersion that the earlier images show.

False alarms, by a simulation of 10,000 days of a stable device with 12 codes between 0.1 and 98 %: at most 1 in 1,000
days if images are independent, 1 in 100 days if they come in equal pairs or their odds vary by a factor of 1.6 from day
to day (``tests/unit/monitoring/test_devices.py``). A change from 2 to 60 % is seen within 20 images in 98 of 100 cases
after 600 earlier images, in 95 after 200. An alarm ends when the new share has become a usual one, or is reverted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from sqlalchemy import Connection, Select, select

from preread.db import schema
from preread.ledger.selection import may_be_intact

WINDOW = 20
DAYS = 30
LEAST_EARLIER = 100
"""Fewest earlier images with which the newest are compared."""
MOST_IMAGES = 10_000
"""Most images that are read, of all devices together: the newest. They cost some 35 ms of one core."""
LEVEL = 5e-6
"""Probability at which a number of images is too large, or too small, for chance."""
_file, _assessment = schema.file.c, schema.assessment.c


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """One code that a device's newest images have more, or less, often.

    Attributes:
        device: label of the device, see ``core.text.search_keys.device_label``.
        code: refusal, fault of the file or caveat.
        images: number of the newest ``WINDOW`` images that have it.
        share: share of the earlier images that have it, in [0, 1].
        earlier: number of earlier images.
    """

    device: str
    code: str
    images: int
    share: float
    earlier: int


def find_device_changes(connection: Connection, now: datetime) -> list[DeviceChange]:
    """Return the codes whose frequency changed, by device.

    Live images only; neither backlog nor research, nor images that name no device.

    Args:
        connection: database.
        now: the database's time.
    """
    by_device: dict[str, list[frozenset[str]]] = {}
    for row in connection.execute(newest_images(now)):
        by_device.setdefault(row.device, []).append(_codes(row.code, row.gate_caveats, row.pixel_caveats))
    return [change for device, images in sorted(by_device.items()) for change in find_changed_codes(device, images)]


def newest_images(now: datetime) -> Select[tuple[str, str | None, str, str | None]]:
    """Return the query of devices and codes, the newest images first."""
    ended = _file.outcome.is_not(None) & _file.device.is_not(None) & ~_file.backlog & ~_file.research
    newest = (
        select(_file.id, _file.device, _file.code, _file.gate_caveats, _file.assessment_id, _file.committed_at)
        .where(_file.committed_at > now - timedelta(days=DAYS), ended)
        .order_by(_file.committed_at.desc(), _file.id.desc())
        .limit(MOST_IMAGES)
        .subquery()
    )
    return (
        select(newest.c.device, newest.c.code, newest.c.gate_caveats, _assessment.pixel_caveats)
        .outerjoin_from(newest, schema.assessment, _assessment.id == newest.c.assessment_id)
        .order_by(newest.c.committed_at.desc(), newest.c.id.desc())
    )


@lru_cache(maxsize=1024)
def _codes(code: str | None, gate_caveats: str, pixel_caveats: str | None) -> frozenset[str]:
    """Return the codes of an image; what may lie outside the file is none of them."""
    own = [code] if code is not None and not may_be_intact(code) else []
    return frozenset([*own, *json.loads(gate_caveats), *json.loads(pixel_caveats or "[]")])


def find_changed_codes(device: str, images: Sequence[frozenset[str]]) -> Iterator[DeviceChange]:
    """Yield the codes whose frequency changed.

    Args:
        device: label of the device.
        images: codes of each of its images, the newest first; none is judged by fewer than ``LEAST_EARLIER`` others.
    """
    recent, earlier = images[:WINDOW], images[WINDOW:]
    if len(earlier) < LEAST_EARLIER:
        return
    for code in sorted(frozenset().union(*images)):
        found = sum(code in image for image in recent)
        before = [code in image for image in earlier]
        if is_unusual(found, before):
            yield DeviceChange(device, code, found, sum(before) / len(before), len(before))


def is_unusual(found: int, earlier: Sequence[bool]) -> bool:
    """Return whether a number of the newest images is outside the usual range.

    Args:
        found: number of the newest ``WINDOW`` images that have a code.
        earlier: of each earlier image, in their order, whether it has the code.
    """
    # nearly all codes need no more than this
    if not _is_beyond(found, sum(earlier), len(earlier), 1.0):
        return False
    dispersion = _dispersion(earlier)
    return dispersion == 1.0 or _is_beyond(found, sum(earlier), len(earlier), dispersion)


def _is_beyond(found: int, earlier: int, total: int, dispersion: float) -> bool:
    """Test a number of the newest images against the earlier ones.

    Args:
        found: number of the newest images.
        earlier: number of the earlier ones.
        total: number of all earlier images.
        dispersion: the numbers are divided by it, which makes them less certain.
    """
    drawn, others = max(1, round(WINDOW / dispersion)), round(total / dispersion)
    known = min(others, round(earlier / dispersion))
    if found * total >= earlier * WINDOW:
        least = min(drawn, math.floor(found / dispersion))
        return _tail(least, drawn, known, others) <= LEVEL
    missing = min(drawn, math.floor((WINDOW - found) / dispersion))
    return _tail(missing, drawn, others - known, others) <= LEVEL


def _tail(least: int, drawn: int, known: int, others: int) -> float:
    """Return the probability that chance puts so many into the newest images.

    Hypergeometric: of all images as many have the code, and those drawn for the newest have at least ``least``.
    """
    having, total = known + least, others + drawn
    ways = sum(
        math.comb(having, count) * math.comb(total - having, drawn - count)
        for count in range(least, min(drawn, having) + 1)
    )
    return ways / math.comb(total, drawn)


def _dispersion(earlier: Sequence[bool]) -> float:
    """Return how much more the numbers vary than those of independent images.

    The variance of blocks of ``WINDOW`` images, relative to the binomial one, less one standard error; at least 1.
    """
    blocks = [sum(earlier[at : at + WINDOW]) for at in range(0, len(earlier) - WINDOW + 1, WINDOW)]
    expected = sum(blocks) / len(blocks)
    binomial = expected * (1 - expected / WINDOW)
    if binomial == 0 or len(blocks) < 2:
        return 1.0
    variance = sum((count - expected) ** 2 for count in blocks) / (len(blocks) - 1)
    return max(1.0, variance / binomial / (1 + math.sqrt(2 / (len(blocks) - 1))))
