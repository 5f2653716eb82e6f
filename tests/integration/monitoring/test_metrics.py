"""Metrics, alerts, dashboard: each name in one of them is there in the others, and Prometheus's own tool agrees."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, insert, select

from preread.core.errors import DatabaseAway
from preread.core.types import Answer, FileState, Finding, ImageStatistics, Outcome, RefusalCode, Stage
from preread.db import schema
from preread.db.review_schema import account, reading, reading_finding
from preread.ledger.archives import FleetHealth
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim, ContentAssessment, FileFacts, Observation
from preread.monitoring import database_metrics, drift
from preread.monitoring.database_metrics import DatabaseMetrics
from preread.monitoring.health import Health, Level, Problem, RootHealth
from preread.runner.child.protocol import Content, Report
from preread.runner.counters import COMMIT, Counters
from tests.support.outcomes import commit_assessed
from tests.support.paths import DEPLOY

RULES = DEPLOY / "prometheus" / "preread.rules.yml"
NOW_S = 1_700_000_000.0
PICTURE = ImageStatistics(mean=120.0, contrast=50.0, sharpness=4.0, border=20.0)


def report(**changes: Any) -> Report:
    found = (Finding("pneumonia", 1.0, 0.73, 0.5, Answer.FLAGGED),)
    values: dict[str, Any] = {"outcome": Outcome.ASSESSED, "sha256": "a" * 64, "ms": 40.0}
    values["content"] = Content(found, (), "x", [[0.0]], PICTURE)
    return Report(**(values | changes))


def claim(closed_ago_s: float, settled_for_s: float) -> Claim:
    return Claim(1, 1, b"x", 10, int((NOW_S - closed_ago_s) * 1e9), 1, 1, 0, settled_for_s=settled_for_s)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(text: bytes, name: str, **labels: str) -> float | None:
    return samples(text).get((f"preread_{name}", tuple(sorted(labels.items()))))


@pytest.fixture
def meters() -> Counters:
    meters = Counters(wall=lambda: NOW_S)
    meters.note_bundle("stub/1.0.0", "d" * 64)
    return meters


def everything(meters: Counters) -> bytes:
    """An exposition in which no metric is without a sample."""
    meters.file_ended(claim(4.0, 2.0), report(stages_ms=dict.fromkeys(Stage, 5.0)), None, 0.01)
    meters.attempt_lost("slot_crashed")
    meters.note_slots(2, 1, 3)
    root = RootHealth("/srv/a", True, 5.0, 1.0, 7, 1.0, None, None, None)
    shards = FleetHealth({"todo": 3, "doing": 1, "succeeded": 5}, processes=2)
    archive = RootHealth("/srv/archive", False, None, None, None, None, None, None, None, shards)
    found = Health(
        datetime.now(UTC),
        (Problem(Level.CRITICAL, "missed", "1 film"),),
        roots=(root, archive),
        counts={FileState.READY: 1},
        quarantined={"truncated": 1},
        unsettled_age_s=1.0,
        ready_age_s=2.0,
        progress_age_s=3.0,
    )
    known = DatabaseMetrics(
        found,
        waiting=(("live", 3), ("backlog", 4)),
        readings=(("stub/1.0.0", "accepted", 5),),
        said=(("stub/1.0.0", "pneumonia", "flagged", "absent", 6),),
    )
    shift = drift.Shift("mean", drift.ReferenceKind.SITE, drift.Judgement.SHIFTED, 0.5, 0.1, 200, 300)
    return database_metrics.exposition_text(meters, known, [shift])


def expressions() -> Iterator[tuple[str, str]]:
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "preread.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_every_metric_of_rules_and_dashboard_is_there_and_every_metric_is_looked_at(meters: Counters) -> None:
    there = {name for name, _ in samples(everything(meters))}
    asked = {(where, name) for where, text in expressions() for name in re.findall(r"\bpreread_\w+", text)}
    assert not {(where, name) for where, name in asked if name not in there}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in there}
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for _, name in asked}
    assert families - used <= {"preread_build_info"}  # the dashboard's list of databases comes from it


def test_labels_in_rules_and_dashboard_are_those_of_the_metrics(meters: Counters) -> None:
    labels: dict[str, set[str]] = {}
    for name, found in samples(everything(meters)):
        labels.setdefault(name, {"job", "instance"}).update(label for label, _ in found)
    for where, text in expressions():
        for name, chosen in re.findall(r"\b(preread_\w+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", chosen)) <= labels[name], where


@pytest.mark.prometheus
def test_prometheus_takes_rules_and_every_expression_of_the_dashboard(tmp_path: Path, meters: Counters) -> None:
    text = subprocess.run(["promtool", "check", "metrics"], input=everything(meters), check=False, capture_output=True)
    assert text.returncode == 0, text.stdout + text.stderr
    plain = {"$__rate_interval": "5m", "$job": "x", "$finding": "x"}
    rules = []
    for number, (_, expression) in enumerate(expressions()):
        for name, instead in plain.items():
            expression = expression.replace(name, instead)  # noqa: PLW2901  one after the other
        rules.append({"record": f"one:{number}", "expr": expression})
    wrapped = tmp_path / "dashboard.yml"
    wrapped.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    for arguments in (
        ["check", "rules", RULES],
        ["check", "rules", wrapped],
        ["test", "rules", "preread.rules.test.yml"],
    ):
        ran = subprocess.run(["promtool", *arguments], cwd=RULES.parent, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


# --------------------------------------------------------------------------- a worker's own counters


def exposed(meters: Counters) -> bytes:
    return database_metrics.exposition_text(meters, database_metrics.unavailable(DatabaseAway("gone")), ())


def test_films_are_counted_by_outcome_and_code(meters: Counters) -> None:
    meters.file_ended(claim(4.0, 2.0), report(), None, 0.25)
    for _ in range(2):
        refused = report(outcome=Outcome.REFUSED, code="view", content=None)
        meters.file_ended(claim(4.0, 2.0), refused, RefusalCode.VIEW, 0.25)
    text = exposed(meters)
    assert value(text, "films_total", outcome="assessed", code="") == 1
    assert value(text, "films_total", outcome="refused", code="view") == 2
    assert value(text, "stage_seconds_sum", stage=COMMIT) == 0.75
    assert value(text, "probability_bucket", finding="pneumonia", le="0.7") == 0
    assert value(text, "probability_bucket", finding="pneumonia", le="0.75") == 1


@pytest.mark.parametrize(
    "closed_ago_s, settled_for_s, counted",
    [(4.0, 2.0, 1), (2.0, 2.0, 1), (86_400.0, 2.0, 0), (-5.0, 2.0, 0), (1.0, 2.0, 0), (4_000.0, 3_900.0, 1)],
    ids=["just now", "no time to settle", "copied with its old time", "clock ahead", "clock ahead a little", "waited"],
)
def test_a_modification_time_counts_only_where_it_is_of_the_writing(
    meters: Counters, closed_ago_s: float, settled_for_s: float, counted: int
) -> None:
    meters.file_ended(claim(closed_ago_s, settled_for_s), report(), None, 0.0)
    assert value(exposed(meters), "closed_to_committed_seconds_count") == counted


def test_slot_deaths_are_counted_once(meters: Counters) -> None:
    for deaths in (0, 2, 2, 3):
        meters.note_slots(4, 3, deaths)
    text = exposed(meters)
    assert [value(text, name) for name in ("slots", "slots_alive", "slot_deaths_total")] == [4, 3, 3]


def test_a_database_that_is_away_is_said_and_nothing_is_made_up(meters: Counters) -> None:
    text = exposed(meters)
    assert value(text, "database_up") == 0
    assert value(text, "problem", code="database_away", level="critical") == 1
    assert not [name for name, _ in samples(text) if name in {"preread_missed", "preread_waiting", "preread_share_up"}]


# --------------------------------------------------------------------------- what stands in the database


def fill(engine: Engine, films: int) -> int:
    """Assess so many films and leave one ready; return the bundle's id."""
    ledger = Ledger(engine, worker_id="one", lease_s=60)
    ledger.heartbeat()
    root_id = ledger.register_root(b"/srv/a")
    bundle_id = ledger.register_bundle(name="stub", version="1.0.0", digest="d" * 64, manifest='{"findings": []}')
    seen = ledger.observe(root_id, [Observation(b"%d" % number, 10, 1) for number in range(films + 1)])
    ledger.settle(seen.values())
    for number, one in enumerate(ledger.claim([root_id], films)):
        found = (Finding("pneumonia", 1.0, number / films, 0.5, Answer.FLAGGED),)
        content = ContentAssessment(found, (), "x", np.zeros((2, 2), np.float32), PICTURE)
        assert commit_assessed(ledger, one, FileFacts(f"{number:064x}", ms=1.0), bundle_id, content)
    return bundle_id


def test_figures_of_the_database(engine: Engine, meters: Counters) -> None:
    bundle_id = fill(engine, 3)
    _sign(engine, bundle_id)
    text = database_metrics.exposition_text(
        meters, database_metrics.read_metrics(engine, roots=None, scan_interval_s=30.0), drift.current_shifts(engine)
    )
    assert value(text, "database_up") == 1
    assert value(text, "waiting", lane="live") == 1
    assert value(text, "waiting", lane="backlog") == 0
    assert value(text, "share_up", root="/srv/a") == 0  # nobody watches it
    assert value(text, "recent_readings", bundle="stub/1.0.0", verdict="rejected") == 1
    labels = {"bundle": "stub/1.0.0", "finding": "pneumonia", "answer": "flagged", "presence": "absent"}
    assert value(text, "recent_reading_findings", **labels) == 1


def _sign(engine: Engine, bundle_id: int) -> None:
    """A reading, and its correction: the corrected one no longer counts."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        who = {"name": "ada", "full_name": "Ada", "role": "reader", "created_at": now, "failures": 0}
        who |= {"read_before_reveal": False}
        account_id = connection.execute(insert(account).returning(account.c.id), who).scalar_one()
        film = connection.execute(select(schema.file).where(schema.file.c.outcome == "assessed").limit(1)).one()
        before = None
        for token, verdict, presence in (("a", "accepted", "present"), ("b", "rejected", "absent")):
            row = {
                "file_id": film.id,
                "account_id": account_id,
                "outcome": "assessed",
                "assessment_id": film.assessment_id,
                "bundle_id": bundle_id,
                "verdict": verdict,
                "comment": "",
                "answer_visible": True,
                "signed_at": now,
                "waited_s": 1.0,
                "form_token": token,
                "supersedes_id": before,
            }
            before = connection.execute(insert(reading).returning(reading.c.id), row).scalar_one()
            said = {"reading_id": before, "finding": "pneumonia", "presence": presence}
            connection.execute(insert(reading_finding), said)


def test_an_assessment_keeps_what_its_picture_was_like(engine: Engine) -> None:
    fill(engine, 1)
    with engine.connect() as connection:
        row = connection.execute(select(schema.assessment)).one()
    kept = {name: getattr(row, f"picture_{name}") for name in drift.PICTURE}
    assert kept == dataclasses.asdict(PICTURE)
