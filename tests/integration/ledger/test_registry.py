"""Bundles: taken in, chosen, tried in the shadow, compared, withdrawn; results keep the one that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from preread.admin import bundle_comparison, bundle_recall, bundle_registry
from preread.core.errors import (
    BundleDamaged,
    BundleMismatch,
    BundleWithdrawn,
    FileVanished,
    ShareDown,
    SlotCrashed,
    UsageError,
)
from preread.core.types import Answer, FileState, Finding, Outcome, RefusalCode
from preread.db import admin_schema
from preread.db.engine import write
from preread.ledger.records import ContentAssessment
from preread.model import bundles
from preread.model.bundles import Bundle
from preread.review import audit, disclosures, results
from preread.review.history import detail_to_json, load_result
from preread.review.results import result_to_json
from preread.runner.child.protocol import Report
from preread.runner.pool import Done, Fault, Lost
from preread.runner.shadow import Shadow, ShadowFile
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_assessed, commit_refused
from tests.support.stub_bundle import make_stub_bundle

ACTOR = "uid:0"


def content_of(answer: Answer = Answer.FLAGGED, probability: float = 0.9) -> ContentAssessment:
    """What a slot would say of some film."""
    one = Finding("pneumonia", 2.2, probability, 0.3, answer)
    return ContentAssessment((one,), (), "pillow 12", np.zeros((7, 7, 1), np.float32))


def named(version: str, path: Path) -> Bundle:
    """A bundle as far as the database minds."""
    made = make_stub_bundle(path / version)
    return replace(made, manifest=replace(made.manifest, version=version), digest=version[0] * 64)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Bundle, Bundle]:
    return named("1.0.0", tmp_path), named("2.0.0", tmp_path)


# --------------------------------------------------------------------------- taking in


def test_a_bundle_that_is_added_is_found_by_name_and_changes_no_default(stub_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "added"
    seen: list[Bundle] = []
    added = bundles.add_bundle(stub_bundle.path, folder, seen.append)
    assert [one.digest for one in seen] == [stub_bundle.digest] == [added.digest]
    assert bundles.find_bundle("stub/1.0.0", folder) == added.path == folder / "stub" / "1.0.0"
    assert bundles.find_bundle(None, folder).is_relative_to(Path(bundles.__file__).parents[1])
    assert bundles.add_bundle(stub_bundle.path, folder, lambda _: None) == added
    assert [path.name for path in (folder / "stub").iterdir()] == ["1.0.0"]


def test_a_bundle_that_is_damaged_or_answers_otherwise_here_leaves_nothing_behind(
    stub_bundle_copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "added"

    def differs(_: Bundle) -> None:
        raise BundleMismatch("it differs from its golden vectors")

    with pytest.raises(BundleMismatch):
        bundles.add_bundle(stub_bundle_copy, folder, differs)
    assert not list((folder / "stub").iterdir())
    (stub_bundle_copy / bundles.WEIGHTS_FILE).write_bytes(b"other weights")
    with pytest.raises(BundleDamaged):
        bundles.add_bundle(stub_bundle_copy, folder, lambda _: None)
    assert not list((folder / "stub").iterdir())


def test_another_bundle_of_the_same_name_is_refused(
    stub_bundle: Bundle, stub_bundle_copy: Path, tmp_path: Path
) -> None:
    bundles.add_bundle(stub_bundle.path, tmp_path / "added", lambda _: None)
    manifest = stub_bundle_copy / bundles.MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace("Apache-2.0", "MIT"))
    with pytest.raises(UsageError, match="has the same name and version and other content"):
        bundles.add_bundle(stub_bundle_copy, tmp_path / "added", lambda _: None)


# --------------------------------------------------------------------------- choosing


def test_activating_is_on_record_and_queues_no_film_again(bench: LedgerBench, two: tuple[Bundle, Bundle]) -> None:
    film = bench.assess(b"film.dcm")
    before = bench.row(film)
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[0])
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[1])
    now = bundle_registry.current_selection(bench.engine).active
    assert now is not None
    assert now.bundle is not None
    assert (now.bundle.label, now.bundle.digest, now.actor) == ("stub/2.0.0", "2" * 64, ACTOR)
    assert bench.row(film) == before
    assert results.query_results(bench.engine)[0].bundle == "films/1"
    assert [one.action for one in audit.latest_audit_entries(bench.engine, 9) if one.action != "key"] == [
        "bundle_chosen"
    ] * 2
    audit.verify_audit_chain(bench.engine)


def test_rolling_back_goes_to_the_one_before_and_past_what_was_withdrawn(
    bench: LedgerBench, two: tuple[Bundle, Bundle]
) -> None:
    with pytest.raises(UsageError, match="no bundle was activated before"):
        bundle_registry.activate_previous_bundle(bench.engine, ACTOR)
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[0])
    assert bundle_registry.activate_previous_bundle(bench.engine, ACTOR) is None
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[0])
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[1])
    back = bundle_registry.activate_previous_bundle(bench.engine, ACTOR)
    assert back is not None
    assert back.label == "stub/1.0.0"
    bundle_registry.activate_bundle(bench.engine, ACTOR, two[1])
    bundle_registry.withdraw_bundles(
        bench.engine, ACTOR, bundle_registry.find_bundles(bench.engine, "1.0.0"), "it turned films"
    )
    assert bundle_registry.activate_previous_bundle(bench.engine, ACTOR) is None
    bundle_registry.withdraw_bundles(
        bench.engine, ACTOR, bundle_registry.find_bundles(bench.engine, "2.0.0"), "it as well"
    )
    with pytest.raises(UsageError, match="withdrawn"):
        bundle_registry.activate_previous_bundle(bench.engine, ACTOR)


# --------------------------------------------------------------------------- withdrawing


def test_a_withdrawn_bundle_strikes_its_results_through_and_assesses_no_more(bench: LedgerBench) -> None:
    film = bench.assess(b"film.dcm")
    known = bundle_registry.find_bundles(bench.engine, "films/1")
    for reason in ("it misses what lies behind the heart", "said twice, the first reason stays"):
        bundle_registry.withdraw_bundles(bench.engine, ACTOR, known, reason)
    (row,) = results.query_results(bench.engine)
    assert row.withdrawn == "it misses what lies behind the heart"
    assert result_to_json(row)["withdrawn"]["reason"] == row.withdrawn
    with pytest.raises(BundleWithdrawn, match="behind the heart"):
        bench.ledger.register_bundle(name="films", version="1", digest="d" * 64)
    # replaced by a later result it stays struck through in the history
    bench.bundle_id = bench.ledger.register_bundle(name="films", version="2", digest="e" * 64)
    assert bench.ledger.requeue([film], "a better bundle", states=[FileState.DONE])
    (claim,) = bench.claim()
    assert commit_assessed(bench.ledger, claim, bench.facts(), bench.bundle_id, content_of(Answer.NOT_FLAGGED))
    detail = load_result(bench.engine, film)
    assert detail is not None
    assert detail.row.withdrawn is None
    assert detail_to_json(detail)["history"]["past"][0]["withdrawn"].startswith("it misses")
    assert [one.action for one in audit.latest_audit_entries(bench.engine, 9) if one.action != "key"] == [
        "bundle_withdrawn"
    ]


def test_the_films_of_a_withdrawn_bundle_are_listed_with_who_saw_them(bench: LedgerBench) -> None:
    first, second = bench.assess(b"a.dcm", b"a"), bench.assess(b"b.dcm", b"b")
    claim = bench.claimed(b"c.dcm")
    assert commit_refused(bench.ledger, claim, bench.facts(b"c"), bench.bundle_id, RefusalCode.VIEW, "lateral")
    other = bench.ledger.register_bundle(name="films", version="2", digest="e" * 64)
    claim = bench.claimed(b"d.dcm")
    assert commit_assessed(bench.ledger, claim, bench.facts(b"d"), other, content_of())

    def look(connection: Any, _again: bool) -> None:
        audit.append_entry(connection, "uid:7", audit.Action.VIEW, f"film:{second}")
        audit.append_entry(connection, "uid:8", audit.Action.SEARCH, "results")

    write(bench.engine, look)
    ids = [one.bundle_id for one in bundle_registry.find_bundles(bench.engine, "films/1")]
    assert bundle_recall.unattributed_access(bench.engine, ids) == bundle_recall.UnattributedAccess(0, None)
    rows = {row.path_text: row for row in results.query_results(bench.engine)}
    disclosures.record_list_view(bench.engine, "uid:9", [rows["a.dcm"], rows["c.dcm"], rows["d.dcm"]])
    # the other bundle's answer of the same film, which another person saw, is none of this one's
    bench.wait(1)
    assert bench.ledger.requeue([first], "a better bundle", states=[FileState.DONE])
    (claim,) = bench.claim()
    assert commit_assessed(bench.ledger, claim, bench.facts(b"a"), other, content_of(Answer.NOT_FLAGGED))
    disclosures.record_list_view(bench.engine, "uid:10", results.query_results(bench.engine))
    found = list(bundle_recall.recalled_images(bench.engine, ids))
    said = [(one.result.path_text, [of.who for of in one.seen], sorted(of.who for of in one.listed)) for one in found]
    assert said == [
        ("a.dcm", [], ["uid:9"]),
        ("b.dcm", ["uid:7"], ["uid:10"]),
        ("c.dcm", [], ["uid:10", "uid:9"]),
    ]
    assert found[0].result.result_id == first
    assert [one["who"] for one in bundle_recall.recalled_image_to_json(found[2])["listed"]] == ["uid:9", "uid:10"]
    write(bench.engine, lambda c, _: audit.append_entry(c, "uid:9", audit.Action.EXPORT, "readings"))
    unnamed = bundle_recall.unattributed_access(bench.engine, ids)
    assert unnamed == bundle_recall.UnattributedAccess(1, found[0].listed[0].at)


# --------------------------------------------------------------------------- in the shadow


@pytest.fixture
def tried(bench: LedgerBench) -> tuple[Shadow, int]:
    """A shadow of films from now on, and its bundle's id."""
    shadow_id = bench.ledger.register_bundle(name="films", version="2", digest="e" * 64)
    return Shadow(bench.engine, bench.bundle_id, shadow_id, bench.now), shadow_id


def said(film: ShadowFile, answer: Answer | None, probability: float) -> Done[ShadowFile]:
    """A slot's word of a film; ``None``: it is refused."""
    if answer is None:
        return Done(film, Report(Outcome.REFUSED, film.sha256, 1.0, code="view", reason="lateral"))
    content: Any = content_of(answer, probability)
    return Done(film, Report(Outcome.ASSESSED, film.sha256, 1.0, content=content))


def test_a_shadow_speaks_of_each_film_once_and_nobody_is_shown_it(
    bench: LedgerBench, tried: tuple[Shadow, int]
) -> None:
    shadow, _ = tried
    assert shadow.films([bench.root_id], 5) == []
    bench.wait(1)
    first = bench.assess(b"a.dcm", b"a")
    bench.assess(b"copy of a.dcm", b"a")
    bench.wait(1)
    bench.assess(b"b.dcm", b"b")
    shown = results.query_results(bench.engine)
    given = shadow.films([bench.root_id], 1) + shadow.films([bench.root_id], 5)
    assert sorted(film.path for film in given) == [b"b.dcm", b"copy of a.dcm"]
    assert shadow.films([bench.root_id], 5) == []
    for film in given:
        shadow.handle(said(film, Answer.NOT_FLAGGED, 0.2))
    assert shadow.films([bench.root_id], 5) == []
    assert bench.count("shadow") == bench.count("shadow_finding") == 2
    assert results.query_results(bench.engine) == shown
    assert bench.state(b"a.dcm") is FileState.DONE
    detail = load_result(bench.engine, first)
    assert detail is not None
    assert "films/2" not in str(detail_to_json(detail))


def test_what_fails_in_the_shadow_is_noted_there_and_touches_no_film(
    bench: LedgerBench, tried: tuple[Shadow, int]
) -> None:
    shadow, shadow_id = tried
    bench.wait(1)
    files = {name: bench.assess(name, name) for name in (b"gone", b"crash", b"changed")}
    before = {name: bench.row(number) for name, number in files.items()}
    given = {film.path: film for film in shadow.films([bench.root_id], 5)}
    shadow.handle(Fault(given[b"gone"], FileVanished()))
    shadow.handle(Lost(given[b"crash"], SlotCrashed()))
    shadow.handle(said(replace(given[b"changed"], sha256="f" * 64), Answer.FLAGGED, 0.9))
    with bench.engine.connect() as connection:
        columns = admin_schema.shadow.c
        rows = connection.execute(select(columns.code, columns.outcome, columns.bundle_id)).all()
    assert {row.code for row in rows} == {FileVanished.code, SlotCrashed.code, None}
    assert {row.bundle_id for row in rows} == {shadow_id}
    assert {name: bench.row(number) for name, number in files.items()} == before
    # a share that is away is no word about a film; after a few tries the shadow rests
    bench.assess(b"later", b"later")
    for _ in range(5):
        (film,) = shadow.films([bench.root_id], 5)
        shadow.handle(Fault(film, ShareDown()))
    assert shadow.films([bench.root_id], 5) == []


def test_two_bundles_are_compared_on_what_both_spoke_of(bench: LedgerBench, tried: tuple[Shadow, int]) -> None:
    shadow, shadow_id = tried
    bench.wait(1)
    films = {name: bench.assess(name, name) for name in (b"same", b"turned", b"refused")}
    words = {b"same": (Answer.FLAGGED, 0.8), b"turned": (Answer.NOT_FLAGGED, 0.1), b"refused": (None, 0.0)}
    for film in shadow.films([bench.root_id], 5):
        shadow.handle(said(film, *words[film.path]))
    bench.assess(b"unseen", b"unseen")
    found = bundle_comparison.compare_bundles(bench.engine, [bench.bundle_id], [shadow_id])
    assert found.contents == 3
    of = found.findings["pneumonia"]
    assert of.table == {("flagged", "flagged"): 1, ("flagged", "not_flagged"): 1, ("flagged", "refused: view"): 1}
    assert of.agreement == pytest.approx(1 / 3)
    assert of.quantiles() == pytest.approx((-0.8, -0.765, -0.625, -0.45, -0.275, -0.135, -0.1))
    assert {(change.file_ids, change.after) for change in found.changes} == {
        ((films[b"turned"],), "not_flagged"),
        ((films[b"refused"],), "refused: view"),
    }
    back = bundle_comparison.compare_bundles(bench.engine, [shadow_id], [bench.bundle_id])
    assert back.findings["pneumonia"].table == {(b, a): n for (a, b), n in of.table.items()}
    assert bundle_comparison.comparison_to_json(found)["changes"] == 2


def test_double_results_are_compared_too(bench: LedgerBench) -> None:
    film = bench.assess(b"film.dcm")
    second = bench.ledger.register_bundle(name="films", version="2", digest="e" * 64)
    bench.ledger.requeue([film], "again", states=[FileState.DONE])
    (claim,) = bench.claim()
    assert commit_assessed(bench.ledger, claim, bench.facts(), second, content_of(Answer.UNCERTAIN, 0.5))
    found = bundle_comparison.compare_bundles(bench.engine, [bench.bundle_id], [second])
    assert found.findings["pneumonia"].table == {("flagged", "uncertain"): 1}
