"""Claims of chosen versions, for a shard: by number, and again for another bundle. On both databases."""

from __future__ import annotations

from sqlalchemy import select

from preread.core.errors import ShareDown, UnknownFormat
from preread.core.types import FileState, RefusalCode
from preread.db import schema
from tests.support.ledger import LedgerBench
from tests.support.outcomes import commit_refused, commit_unreadable


def test_only_what_was_chosen_and_is_ready_is_claimed(bench: LedgerBench) -> None:
    chosen, other, taken = (bench.ready(name)[0].file_id for name in (b"chosen", b"other", b"taken"))
    (first,) = bench.ledger.claim_by_id([taken])
    assert [claim.path for claim in bench.ledger.claim_by_id([chosen, taken])] == [b"chosen"]
    assert bench.ledger.find_pending([chosen, other, taken]) == {chosen, other, taken}
    assert bench.ledger.give_back(first, ShareDown(), retry_in_s=5) is FileState.RETRY
    assert bench.ledger.claim_by_id([taken]) == []
    bench.wait(5)
    (again,) = bench.ledger.claim_by_id([taken])
    assert (again.attempts, again.epoch) == (1, 2)


def test_a_film_that_must_run_alone_does(bench: LedgerBench) -> None:
    lonely, other = (version.file_id for version in bench.ready(b"lonely", b"other"))
    with bench.engine.begin() as connection:
        connection.execute(schema.file.update().where(schema.file.c.id == lonely).values(alone=True))
    (claim,) = bench.ledger.claim_by_id([lonely, other])
    assert claim.path == b"other"
    assert bench.ledger.claim_by_id([lonely]) == []
    bench.ledger.give_back(claim, "the worker stops")
    assert [claim.path for claim in bench.ledger.claim_by_id([lonely])] == [b"lonely"]
    assert bench.ledger.claim_by_id([other]) == []


def test_what_another_bundle_answered_is_claimed_and_never_ready_for_others(bench: LedgerBench) -> None:
    old, new = (bench.ledger.register_bundle(name="b", version=v, digest=v * 64) for v in "12")
    refused, unreadable = (version.file_id for version in bench.ready(b"refused", b"unreadable"))
    (claim,) = bench.ledger.claim_by_id([refused])
    assert commit_refused(bench.ledger, claim, bench.facts(), old, RefusalCode.VIEW, "a lateral view")
    (claim,) = bench.ledger.claim_by_id([unreadable])
    assert commit_unreadable(bench.ledger, claim, UnknownFormat())
    assert bench.ledger.claim_by_id([refused, unreadable]) == []
    assert bench.ledger.claim_by_id([refused, unreadable], old) == []
    assert bench.ledger.find_pending([refused, unreadable], new) == {refused}
    (claim,) = bench.ledger.claim_by_id([refused, unreadable], new)
    assert bench.claim(5) == []
    assert bench.row(refused)["bundle_id"] == old, "its outcome stands until the next one is committed"
    assert commit_refused(bench.ledger, claim, bench.facts(), new, RefusalCode.VIEW, "a lateral view")
    assert bench.ledger.find_pending([refused, unreadable], new) == set()
    with bench.engine.connect() as connection:
        assert connection.execute(select(schema.past_outcome.c.bundle_id)).scalars().all() == [old]
