"""Films that change are told of, films that do not are not, and few films get no verdict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, insert

from preread.db import schema
from preread.ledger.ledger import Ledger
from preread.ledger.records import Observation
from preread.model import bundles
from preread.monitoring import drift
from preread.monitoring.drift import Judgement, ReferenceKind

NOW = datetime.now(UTC)
BIMODAL = {"edges": [0.5], "films": [500, 500]}
OLD_STYLE = {
    "findings": [{"finding": "pneumonia", "operating_point": {"uncertain_low": 0.2, "uncertain_high": 0.8}}],
    "metrics": {"pneumonia": {"answers": {
        "not_flagged": {"with_finding": 10, "without_finding": 490}, "uncertain": {"with_finding": 20},
        "flagged": {"with_finding": 480},
    }}},
}  # fmt: skip
NEW_STYLE = OLD_STYLE | {
    "reference": {"films": "drawn ones", "probability": {"pneumonia": BIMODAL}, "picture": {"mean": BIMODAL}}
}


class Site:
    """A database whose films are written as they would stand there: one statement for many."""

    def __init__(self, engine: Engine, manifest: Any = None) -> None:
        self.engine = engine
        self.ledger = Ledger(engine, worker_id="one", lease_s=60)
        self.root_id = self.ledger.register_root(b"/srv/a")
        self.bundle_id = self.ledger.register_bundle(
            name="stub", version="1.0.0", digest="d" * 64, manifest=json.dumps(manifest or {"findings": []})
        )
        with engine.begin() as connection:
            connection.execute(schema.bundle.update().values(registered_at=NOW - timedelta(days=60)))
        self.films = 0

    def add(
        self, days_ago: float, probability: Iterable[float], *, refused: int = 0, light: float = 100.0, **film: Any
    ) -> None:
        """Write films that were committed so long ago."""
        at = NOW - timedelta(days=days_ago)
        answers = [*probability, *([None] * refused)]
        known = self.ledger.observe(
            self.root_id, [Observation(b"%d" % (self.films + one), 10, 1) for one in range(len(answers))]
        )
        files = sorted(version.file_id for version in known.values())
        random = np.random.default_rng(self.films)
        with self.engine.begin() as connection:
            for number, (file_id, value) in enumerate(zip(files, answers, strict=True), start=self.films):
                changes: dict[str, Any] = {"outcome": "refused", "code": "view"}
                if value is not None:
                    changes = {
                        "outcome": "assessed",
                        "assessment_id": self._assess(connection, number, value, light, random),
                    }
                changes |= {"state": "done", "committed_at": at, "bundle_id": self.bundle_id} | film
                connection.execute(schema.file.update().where(schema.file.c.id == file_id).values(**changes))
        self.films += len(answers)

    def _assess(self, connection: Any, number: int, value: float, light: float, random: Any) -> int:
        content = {"sha256": f"{number:064x}", "size_bytes": 1, "format": "DICOM", "first_read_at": NOW}
        instance_id = connection.execute(insert(schema.instance).returning(schema.instance.c.id), content).scalar_one()
        row = {"instance_id": instance_id, "bundle_id": self.bundle_id, "decoder": "x", "pixel_caveats": "[]"}
        row |= {"activation_map": b"", "activation_map_shape": "0", "assessed_at": NOW}
        row |= {f"picture_{name}": light + 10 * random.normal() for name in drift.PICTURE}
        found = insert(schema.assessment).returning(schema.assessment.c.id)
        assessment_id: int = connection.execute(found, row).scalar_one()
        answer = {"assessment_id": assessment_id, "finding": "pneumonia", "position": 0, "logit": 0.0}
        answer |= {"probability": value, "prevalence": 0.5, "answer": "uncertain"}
        connection.execute(insert(schema.finding), answer)
        return assessment_id

    def verdicts(self, against: ReferenceKind) -> dict[str, Judgement]:
        found = drift.report(self.engine)
        assert found is not None
        return {shift.measure: shift.verdict for shift in found.shifts if shift.against is against}


def even(films: int) -> list[float]:
    return [float(value) for value in (np.arange(films) + 0.5) / films]


def test_nothing_is_said_before_there_are_films(engine: Engine) -> None:
    assert drift.report(engine) is None
    assert drift.current_shifts(engine) == ()


def test_the_first_days_are_compared_with_nothing_of_the_site(engine: Engine) -> None:
    site = Site(engine)
    site.add(1, even(10))
    found = drift.report(engine)
    assert found is not None
    assert (found.baseline, found.reference, found.shifts) == (None, None, ())
    assert [day.assessed for day in found.days] == [0, 10, 0, 0, 0, 0, 0]


def test_films_that_stay_are_steady_and_films_that_change_have_shifted(engine: Engine) -> None:
    site = Site(engine)
    site.add(40, even(150), refused=10)
    site.add(2, even(140), refused=9)
    assert set(site.verdicts(ReferenceKind.SITE).values()) == {Judgement.STEADY}
    site.add(1, [0.95] * 400, refused=200, light=140.0)
    verdicts = site.verdicts(ReferenceKind.SITE)
    assert verdicts["probability of pneumonia"] is Judgement.SHIFTED
    assert verdicts["mean"] is Judgement.SHIFTED
    assert verdicts["refusals"] in {Judgement.SHIFTING, Judgement.SHIFTED}


def test_few_films_get_no_verdict_however_they_differ(engine: Engine) -> None:
    site = Site(engine)
    site.add(40, [0.1] * 150)
    site.add(1, [0.9] * (drift.LEAST_FILMS - 1), light=200.0)
    assert set(site.verdicts(ReferenceKind.SITE).values()) == {Judgement.TOO_FEW}
    found = drift.report(engine)
    assert found is not None
    assert all(shift.to_json()["psi"] is None for shift in found.shifts)


@pytest.mark.parametrize("film", [{"backlog": True}, {"research": True}], ids=str)
def test_backlog_and_research_do_not_count(engine: Engine, film: dict[str, Any]) -> None:
    site = Site(engine)
    site.add(40, even(120))
    site.add(2, even(120))
    site.add(1, [0.99] * 300, light=250.0, **film)
    assert set(site.verdicts(ReferenceKind.SITE).values()) == {Judgement.STEADY}


@pytest.mark.parametrize(
    "manifest, words",
    [(OLD_STYLE, "out of fold"), (NEW_STYLE, "drawn ones")],
    ids=["its answers", "its reference"],
)
def test_the_bundle_brings_what_it_is_compared_with(engine: Engine, manifest: Any, words: str) -> None:
    site = Site(engine, manifest)
    site.add(1, [0.05] * 100 + [0.95] * 100)
    found = drift.report(engine)
    assert found is not None
    assert found.reference is not None
    assert words in found.reference
    shift = next(one for one in found.shifts if one.measure == "probability of pneumonia")
    assert (shift.against, shift.verdict, shift.reference_films) == (ReferenceKind.BUNDLE, Judgement.STEADY, 1000)
    site.add(1, [0.95] * 2000)
    assert site.verdicts(ReferenceKind.BUNDLE)["probability of pneumonia"] is Judgement.SHIFTED


def test_a_manifest_may_bring_a_reference_and_need_not(stub_bundle: bundles.Bundle) -> None:
    assert stub_bundle.manifest.reference is None
    manifest = json.loads(stub_bundle.manifest_json) | {"reference": NEW_STYLE["reference"]}
    read = bundles._MANIFEST.validate_json(json.dumps(manifest))
    assert read.reference is not None
    assert dataclasses.asdict(read.reference.probability["pneumonia"]) == {"edges": (0.5,), "films": (500, 500)}
