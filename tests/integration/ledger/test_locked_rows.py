"""Claims pass over rows that another connection holds, without waiting for it. On Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event, select

from preread.core.errors import ShareDown
from preread.core.types import FileState
from preread.db import schema
from tests.support.ledger import LedgerBench

pytestmark = pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)


@contextmanager
def locked(bench: LedgerBench, file_id: int) -> Iterator[None]:
    """Hold a version's row in a transaction of another connection; whoever waits for a lock fails."""

    def wait_for_no_lock(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")

    with bench.engine.connect() as connection:
        connection.execute(select(schema.file.c.id).where(schema.file.c.id == file_id).with_for_update())
        event.listen(bench.engine, "begin", wait_for_no_lock)
        try:
            yield
        finally:
            event.remove(bench.engine, "begin", wait_for_no_lock)
            connection.rollback()


def test_a_claim_takes_the_next_file(bench: LedgerBench) -> None:
    older, newer = bench.ready(b"older", b"newer")
    with locked(bench, newer.file_id):
        assert [claim.path for claim in bench.claim(1)] == [b"older"]
        assert bench.claim(1) == []
    assert [claim.path for claim in bench.claim(1)] == [b"newer"]
    assert bench.row(older.file_id)["epoch"] == bench.row(newer.file_id)["epoch"] == 1


def test_a_file_that_must_run_alone_is_left_to_the_other_worker(bench: LedgerBench) -> None:
    (lonely,) = bench.ready(b"lonely")
    with bench.engine.begin() as connection:
        connection.execute(schema.file.update().values(alone=True))
    with locked(bench, lonely.file_id):
        assert bench.claim(1) == []
    assert [claim.path for claim in bench.claim(1)] == [b"lonely"]


def test_a_claim_of_chosen_files_takes_the_others(bench: LedgerBench) -> None:
    first, second = (version.file_id for version in bench.ready(b"first", b"second"))
    with locked(bench, first):
        assert [claim.path for claim in bench.ledger.claim_by_id([first, second])] == [b"second"]
    assert [claim.path for claim in bench.ledger.claim_by_id([first, second])] == [b"first"]


def test_files_that_are_due_again_are_woken_around_a_held_one(bench: LedgerBench) -> None:
    held, due = (bench.claimed(path) for path in (b"held", b"due"))
    for claim in (held, due):
        assert bench.ledger.give_back(claim, ShareDown(), retry_in_s=5) is FileState.RETRY
    bench.wait(5)
    with locked(bench, held.file_id):
        assert [claim.path for claim in bench.claim(5)] == [b"due"]
        assert bench.state(b"held") is FileState.RETRY
    assert [claim.path for claim in bench.claim(5)] == [b"held"]


def test_expired_claims_are_given_back_around_a_held_one(bench: LedgerBench) -> None:
    held, expired = (bench.claimed(path) for path in (b"held", b"expired"))
    bench.wait(61)
    with locked(bench, held.file_id):
        assert bench.ledger.recover_interrupted() == 1
        assert (bench.state(b"held"), bench.state(b"expired")) == (FileState.CLAIMED, FileState.READY)
    assert bench.ledger.recover_interrupted() == 1
    assert bench.attempts(held.file_id) == bench.attempts(expired.file_id) == (0, 1)
