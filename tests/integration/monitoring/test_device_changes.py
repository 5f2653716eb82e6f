"""A device whose images change overnight is in the health report, at the cost of one query. On both databases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, bindparam, insert, update

from preread.db import schema
from preread.ledger.ledger import Ledger
from preread.ledger.records import Observation
from preread.monitoring import devices, health
from preread.monitoring.health import Level, Problem
from tests.support.query_plans import asked_by, explained

NOW = datetime.now(UTC)


class Devices:
    """Images of devices, written as they would stand there: one statement for many."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ledger = Ledger(engine, worker_id="one", lease_s=60)
        self.root_id = self.ledger.register_root(b"/srv/a")
        self.count = 0

    def send(self, codes: Sequence[str | None], days_ago: float = 0.5, **columns: Any) -> None:
        """Write images in their order; ``None`` is an image that was answered without a caveat."""
        names = [b"%d" % (self.count + number) for number in range(len(codes))]
        seen = self.ledger.observe(self.root_id, [Observation(name, 10, 1) for name in names])
        at = NOW - timedelta(days=days_ago)
        rows = [
            {
                "key_id": seen[name].file_id,
                "state": "done",
                "outcome": "assessed" if code is None else "refused",
                "code": code,
                "committed_at": at + timedelta(milliseconds=number),
                "device": "ROOM 1",
                **columns,
            }
            for number, (name, code) in enumerate(zip(names, codes, strict=True))
        ]
        with self.engine.begin() as connection:
            connection.execute(update(schema.file).where(schema.file.c.id == bindparam("key_id")), rows)
        self.count += len(codes)

    def problems(self) -> list[Problem]:
        found = health.report(self.engine, roots=None, scan_interval_s=30.0)
        return [problem for problem in found.problems if problem.code == "device_changed"]


@pytest.fixture
def site(engine: Engine) -> Devices:
    """A month of ROOM 1, of whose images 2 % are lateral."""
    site = Devices(engine)
    for day in range(29, 4, -1):
        site.send([None] * 49 + ["view"], day)
    return site


def test_a_device_that_changes_overnight_is_named_with_its_numbers(site: Devices) -> None:
    assert site.problems() == []
    site.send([None, "view", None, "view", None])
    assert site.problems() == []
    site.send(["view", "view", None] * 5)
    (problem,) = site.problems()
    assert (problem.level, problem.count) == (Level.WARNING, devices.WINDOW)
    assert problem.what == (
        "ROOM 1 sends other images than in the last 30 days; of the last 20: view 12 (before: 2.0% of 1250)"
    )


def test_another_device_does_not_hide_or_cause_it(site: Devices) -> None:
    for day in range(29, 4, -1):
        site.send(["view"] * 40, day, device="ROOM 2")
    site.send(["view"] * 20, device="ROOM 2")
    assert site.problems() == []
    site.send([None, "view"] * 10, 0.4)
    assert [problem.what.split(" sends")[0] for problem in site.problems()] == ["ROOM 1"]


@pytest.mark.parametrize(
    "columns",
    [{"backlog": True}, {"research": True}, {"device": None}, {"device": "NEW"}, {"code": "slot_crashed"}],
    ids=["backlog", "research", "no_device", "new_device", "inference_process"],
)
def test_other_images_are_not_judged(site: Devices, columns: dict[str, Any]) -> None:
    site.send(["view"] * 30, **columns)
    assert site.problems() == []


def test_what_is_older_than_a_month_is_no_measure(site: Devices) -> None:
    with site.engine.begin() as connection:
        connection.execute(update(schema.file).values(committed_at=NOW - timedelta(days=31)))
    site.send(["view"] * 30)
    assert site.problems() == []


def test_caveats_of_file_and_pixels_count(site: Devices) -> None:
    content = {"sha256": "0" * 64, "size_bytes": 1, "format": "DICOM", "first_read_at": NOW}
    row = {"bundle_id": site.ledger.register_bundle(name="b", version="1", digest="d" * 64), "decoder": "x"}
    row |= {"activation_map": b"", "activation_map_shape": "0", "assessed_at": NOW}
    with site.engine.begin() as connection:
        instance = insert(schema.instance).values(content).returning(schema.instance.c.id)
        row |= {"instance_id": connection.execute(instance).scalar_one(), "pixel_caveats": json.dumps(["no_window"])}
        assessment = insert(schema.assessment).values(row).returning(schema.assessment.c.id)
        assessment_id = connection.execute(assessment).scalar_one()
    site.send([None] * 20, assessment_id=assessment_id, gate_caveats=json.dumps(["age_assumed"]))
    (problem,) = site.problems()
    assert "age_assumed 20 (before: 0.0% of 1250), no_window 20 (before: 0.0% of 1250)" in problem.what


def test_one_query_by_an_index_with_a_limit(site: Devices) -> None:
    def look() -> None:
        with site.engine.connect() as connection:
            devices.find_device_changes(connection, NOW)

    asked = [one for one in asked_by(site.engine, look) if "FROM" in one[0]]
    ((statement, values),) = asked
    assert "LIMIT" in statement
    assert "ix_file_committed_at_id" in explained(site.engine, statement, values)
