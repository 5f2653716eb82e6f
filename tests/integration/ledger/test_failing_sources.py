"""Which folders' files often end their inference process: by the ledger alone, on both databases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, select

from preread.core.errors import EnvironmentFault, SlotCrashed, SlotDeadline, SlotError, SlotMemory
from preread.core.types import FileState
from preread.db import schema
from preread.ledger import failing_sources
from preread.ledger.failing_sources import Source
from preread.ledger.records import Observation
from tests.support.ledger import LedgerBench


def fail(bench: LedgerBench, *paths: bytes, error: SlotError | None = None) -> None:
    for path in paths:
        bench.ledger.record_failure(bench.claimed(path), error or SlotCrashed(), retry_in_s=1_700)


def end_well(bench: LedgerBench, folder: bytes, count: int) -> None:
    for number in range(count):
        bench.assess(b"%sgood%d" % (folder, number), content=folder + b"%d" % number)


def sources(bench: LedgerBench) -> set[bytes]:
    found = bench.ledger.failing_sources([bench.root_id])
    assert {one.root_id for one in found} <= {bench.root_id}
    return {one.folder for one in found}


@pytest.mark.parametrize("error", [SlotCrashed(), SlotDeadline(), SlotMemory()])
def test_a_folder_whose_files_end_their_process_is_a_source_that_fails(bench: LedgerBench, error: SlotError) -> None:
    end_well(bench, b"good/", 1)
    fail(bench, b"bad/1", b"bad/2", error=error)
    assert sources(bench) == set()
    fail(bench, b"bad/sub/3", error=error)
    assert sources(bench) == {b"bad"}
    assert bench.ledger.failing_sources([bench.root_id + 1]) == []
    assert bench.ledger.failing_sources([]) == []


def test_a_folder_that_also_holds_ten_times_as_many_good_files_is_none(bench: LedgerBench) -> None:
    end_well(bench, b"other/", 1)
    fail(bench, b"some/1", b"some/2", b"some/3")
    end_well(bench, b"some/", 26)
    assert sources(bench) == {b"some"}
    end_well(bench, b"some/more/", 1)
    assert sources(bench) == set()


def test_it_is_forgiven_when_its_files_end_well_or_an_hour_later(bench: LedgerBench) -> None:
    end_well(bench, b"good/", 1)
    fail(bench, b"bad/1", b"bad/2", b"bad/3")
    bench.wait(3599)
    assert sources(bench) == {b"bad"}
    bench.wait(2)
    assert sources(bench) == set()
    bench.wait(-5)
    bench.ledger.requeue([bench.newest(b"bad/1").file_id], "asked", states=[FileState.RETRY])
    assert sources(bench) == set()


def test_what_fails_in_one_folder_says_nothing_of_those_around_it(bench: LedgerBench) -> None:
    fail(bench, *(b"room/bad/%d" % number for number in range(9)))
    end_well(bench, b"room/good/", 2)
    end_well(bench, b"", 1)
    assert sources(bench) == {b"room/bad"}


def test_folders_of_one_film_each_add_up_to_the_folder_above_them(bench: LedgerBench) -> None:
    """As many modalities write them; so does whoever wants a new folder for each film that hangs."""
    end_well(bench, b"", 1)
    fail(bench, b"ct/1.2.3/a", b"ct/1.2.4/a", b"ct/1.2.5/a")
    assert sources(bench) == {b"ct"}


def test_where_every_source_fails_none_is_behind(bench: LedgerBench) -> None:
    """To keep processes free of them would help nobody."""
    fail(bench, b"1", b"2", b"3")
    end_well(bench, b"", 5)
    assert sources(bench) == set()
    other = bench.ledger.register_root(b"/srv/other")
    bench.ledger.observe(other, [Observation(b"film", 100, 1)])
    assert {(one.root_id, one.folder) for one in bench.ledger.failing_sources([bench.root_id, other])} == {
        (bench.root_id, b"")
    }


def test_files_that_the_share_does_not_hand_out_make_a_source_too(bench: LedgerBench) -> None:
    end_well(bench, b"good/", 1)
    for path in (b"dead/1", b"dead/2", b"dead/3"):
        claim = bench.claimed(path)
        bench.ledger.give_back(claim, EnvironmentFault("late"), retry_in_s=600, held_slot=True)
    assert sources(bench) == {b"dead"}


@pytest.mark.parametrize("folder", [b"a", b"a.", b"\xff", b"\x00x", b"a/b", b""])
def test_the_database_covers_what_python_does(bench: LedgerBench, folder: bytes) -> None:
    names = [b"a", b"a.", b"a0", b"a/b", b"a/b/c", b"a//", b"\xff/\xff", b"\xff\xff", b"a!/x", b"\x00x/y", b"a./b"]
    bench.ready(*names)
    source = Source(bench.root_id, folder)
    with bench.engine.connect() as connection:
        found = set(connection.execute(select(schema.file.c.path).where(source.file_condition())).scalars())
    assert found == {name for name in names if source.covers(bench.root_id, name)}
    assert not any(source.covers(bench.root_id + 1, name) for name in names)


@given(st.lists(st.sampled_from([b"a", b"b", b"\xff"]), min_size=1, max_size=5))
def test_every_folder_above_a_file_is_one_that_covers_it(parts: list[bytes]) -> None:
    path = b"/".join(parts)
    folders = list(failing_sources._folders(path))
    assert len(folders) == len(parts)
    assert all(Source(1, folder).covers(1, path) for folder in folders)
    assert folders[-1] == b""


def test_a_few_statements_suffice_and_an_index_leads_to_what_failed(bench: LedgerBench) -> None:
    if bench.engine.dialect.name == "sqlite":
        with bench.engine.connect() as connection:
            recent = select(schema.file.c.path).where(schema.file.c.failed_at > bench.now)
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {recent.compile(connection, compile_kwargs={'literal_binds': True})}"
            ).all()
        assert any("ix_file_failed" in row[-1] for row in plan), plan
    fail(bench, *(b"%d/%d/%d" % (number, number, part) for number in range(70) for part in range(3)))
    end_well(bench, b"", 1)
    statements: list[str] = []
    event.listen(bench.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert len(sources(bench)) == 50
    assert len(statements) < 70
