"""A root that declares something else: what its earlier declaration refused is judged anew, and nothing but that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from preread.core.errors import UnknownFormat
from preread.core.types import FileState, Population, RefusalCode
from preread.db import schema
from preread.ledger.records import Observation
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_refused, commit_unreadable

ROOT = b"/srv/inbox"
WHY = "the root declares another population"


def refuse(bench: LedgerBench, path: bytes, code: RefusalCode, population: Population = Population.UNDECLARED) -> int:
    """Take one film the whole way to a refusal under this declaration; return its file id."""
    claim = bench.claimed(path)
    facts = replace(bench.facts(path), population=population, gate_caveats=())
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, code, "as the test wants it")
    return claim.file_id


def reasons(bench: LedgerBench, file_id: int) -> list[str]:
    columns = schema.transition.c
    with bench.engine.connect() as connection:
        statement = select(columns.why).where(columns.file_id == file_id).order_by(columns.id)
        return list(connection.execute(statement).scalars())


@pytest.mark.parametrize("code", [RefusalCode.AGE_UNKNOWN, RefusalCode.AGE_OUTSIDE, RefusalCode.VIEW])
def test_what_another_declaration_refused_is_owed_again(bench: LedgerBench, code: RefusalCode) -> None:
    file_id = refuse(bench, b"film.dcm", code)
    assert bench.ledger.register_root(ROOT, population=Population.RESEARCH) == bench.root_id
    assert bench.state() is FileState.READY
    assert bench.moves(file_id)[-1] == ("done", "ready")
    assert reasons(bench, file_id)[-1] == WHY
    row = bench.row(file_id)
    assert (row["outcome"], row["code"]) == ("refused", code), "the refusal stands until the film is judged anew"
    (claim,) = bench.claim()
    assert (claim.file_id, claim.attempts) == (file_id, 1)


def test_the_same_declaration_again_moves_nothing(bench: LedgerBench) -> None:
    file_id = refuse(bench, b"film.dcm", RefusalCode.AGE_UNKNOWN)
    bench.ledger.register_root(ROOT)
    assert bench.state() is FileState.DONE

    bench.ledger.register_root(ROOT, population=Population.CHILDREN_1_5Y)
    (claim,) = bench.claim()
    facts = bench.facts()
    assert facts.population is Population.CHILDREN_1_5Y
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, RefusalCode.AGE_OUTSIDE, "the patient is 64 old")
    before = bench.moves(file_id)
    for worker_id in ("two", "three"):
        bench.worker(worker_id).register_root(ROOT, population=Population.CHILDREN_1_5Y)
    assert bench.moves(file_id) == before


def test_a_path_pattern_that_changes_counts_once(bench: LedgerBench) -> None:
    refuse(bench, b"film.dcm", RefusalCode.AGE_UNKNOWN)
    bench.ledger.register_root(ROOT, path_pattern="{patient_id}/*")
    (claim,) = bench.claim()
    facts = replace(bench.facts(), population=Population.UNDECLARED)
    assert commit_refused(bench.ledger, claim, facts, bench.bundle_id, RefusalCode.AGE_UNKNOWN, "still unknown")
    bench.ledger.register_root(ROOT, path_pattern="{patient_id}/*")
    assert bench.state() is FileState.DONE


@pytest.mark.parametrize("code", sorted(set(RefusalCode) - {"age_unknown", "age_outside", "view"}))
def test_a_refusal_that_no_declaration_turns_stands(bench: LedgerBench, code: RefusalCode) -> None:
    refuse(bench, b"film.dcm", code)
    bench.ledger.register_root(ROOT, population=Population.RESEARCH)
    assert bench.state() is FileState.DONE


def test_assessed_and_quarantined_versions_and_other_roots_are_left_alone(bench: LedgerBench) -> None:
    assessed = bench.assess(b"assessed.dcm")
    commit_unreadable(bench.ledger, bench.claimed(b"broken.dcm"), UnknownFormat())
    refuse(bench, b"refused.dcm", RefusalCode.AGE_UNKNOWN)
    bench.ledger.register_root(b"/srv/other", population=Population.RESEARCH)
    assert bench.state(b"refused.dcm") is FileState.DONE
    bench.ledger.register_root(ROOT, population=Population.RESEARCH)
    assert bench.state(b"refused.dcm") is FileState.READY
    assert bench.state(b"assessed.dcm") is FileState.DONE
    assert bench.row(assessed)["population"] == Population.CHILDREN_1_5Y
    assert bench.state(b"broken.dcm") is FileState.QUARANTINED


def test_only_the_current_version_is_judged_anew(bench: LedgerBench) -> None:
    gone = refuse(bench, b"gone.dcm", RefusalCode.AGE_UNKNOWN)
    old = refuse(bench, b"changed.dcm", RefusalCode.AGE_UNKNOWN)
    growing = refuse(bench, b"growing.dcm", RefusalCode.AGE_UNKNOWN)
    bench.ledger.record_absent(bench.root_id, [b"gone.dcm"])
    bench.ready(b"changed.dcm", mtime_ns=2)
    bench.ledger.observe(bench.root_id, [Observation(b"growing.dcm", 100, 2)])
    bench.ledger.register_root(ROOT, population=Population.RESEARCH)
    states = [bench.row(file_id)["state"] for file_id in (gone, old, growing)]
    assert states == [FileState.VANISHED, FileState.SUPERSEDED, FileState.DONE]
