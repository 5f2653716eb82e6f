"""Bad days of the database: its disk full or read-only, a failover to a standby, five minutes without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, insert, select, text

from preread.core.errors import DatabaseAway, DatabaseFull, DatabaseReadOnly, DatabaseUnsuitable
from preread.core.types import FileState, Outcome, Population
from preread.db import migrate, schema
from preread.db.engine import database_now, open_engine, read, write
from preread.ledger.ledger import Ledger
from preread.ledger.records import Claim
from preread.model.bundles import Bundle
from preread.runner.child.protocol import Job, Report
from preread.runner.dispatcher import Dispatcher
from preread.runner.outcomes import RunContext, WatchedRoot
from preread.runner.pool import Done
from preread.share.root_monitor import MonitorOptions, RootMonitor
from tests.support.postgres import PostgresServer


def no_pause(_seconds: float) -> None: ...


def fill(connection: Connection, _again: bool = False) -> None:
    """Write a megabyte."""
    row: dict[str, object] = {"name": "large", "version": os.urandom(8).hex(), "digest": os.urandom(32).hex()}
    row |= {"manifest": "x" * 1_000_000, "registered_at": database_now(connection)}
    connection.execute(insert(schema.bundle), [row])


def raise_sqlstate(sqlstate: str) -> Callable[[Connection, bool], None]:
    """What the server answers when it has this trouble."""
    statement = text(f"DO $$ BEGIN RAISE EXCEPTION 'seam' USING ERRCODE = '{sqlstate}'; END $$")

    def fail(connection: Connection, _again: bool) -> None:
        connection.execute(statement)

    return fail


def test_a_server_database_that_cannot_keep_every_name_is_refused(postgres_server: PostgresServer) -> None:
    """A host without a language makes its databases so; patients' names would come back as bytes, or not fit."""
    name = postgres_server.create("template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    engine = open_engine(postgres_server.url(name))
    try:
        with pytest.raises(DatabaseUnsuitable, match="as SQL_ASCII") as refused:
            migrate.upgrade_schema(engine)
        assert "--encoding UTF8" in refused.value.hint
    finally:
        engine.dispose()
        postgres_server.drop(name)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_full_sqlite_disk_has_its_name_and_passes(engine: Engine) -> None:
    full = True

    @event.listens_for(engine, "begin")
    def _limit(connection: Connection) -> None:
        # SQLite answers SQLITE_FULL beyond this, as it does for a disk without space; never below what is there
        connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if full else 2**30}")

    with pytest.raises(DatabaseFull, match=r"^The disk of the database is full: "):
        write(engine, fill, sleep=no_pause)
    bundles = select(func.count()).select_from(schema.bundle)
    assert read(engine, lambda c: c.execute(bundles).scalar_one()) == 0
    full = False
    write(engine, fill)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_sqlite_file_that_takes_no_changes_has_its_name_and_passes(engine: Engine) -> None:
    read_only = True

    @event.listens_for(engine, "checkout")
    def _refuse(dbapi_connection: Any, *_: object) -> None:
        dbapi_connection.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")

    with pytest.raises(DatabaseReadOnly, match=r"^The database is read-only: "):
        write(engine, fill, sleep=no_pause)
    assert read(engine, lambda c: c.execute(text("SELECT 1")).scalar_one()) == 1
    read_only = False
    write(engine, fill)


def test_a_file_that_was_opened_while_its_disk_was_read_only_is_opened_anew(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    """SQLite opens such a file for reading and never tries again; here by rights, for a user without privileges."""
    folder = tmp_path / "disk"
    folder.mkdir()
    shutil.copy(migrated_sqlite, folder / "preread.db")
    program = f"""
import ctypes, os
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
from sqlalchemy import text
from preread.db.engine import open_engine, write
folder = {str(folder)!r}
engine = open_engine(f"sqlite:///{{folder}}/preread.db")
def change(connection, again):
    connection.execute(text("DELETE FROM bundle"))
write(engine, change)
def rights(file, directory):
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), file)
    os.chmod(folder, directory)
with engine.connect() as kept:  # its log and index stay there
    rights(0o444, 0o555)
    for _ in range(2):
        try:
            write(engine, change, sleep=lambda s: None)
        except Exception as error:
            print(type(error).__name__)
    rights(0o600, 0o700)
    write(engine, change)
print("written")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout.split() == ["DatabaseReadOnly", "DatabaseReadOnly", "written"], ran.stderr


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("sqlstate,kind", [("53100", DatabaseFull), ("25006", DatabaseReadOnly)])
def test_the_servers_own_troubles_have_names(engine: Engine, sqlstate: str, kind: type[DatabaseAway]) -> None:
    with pytest.raises(DatabaseAway) as caught:
        write(engine, raise_sqlstate(sqlstate), sleep=no_pause)
    assert type(caught.value) is kind
    write(engine, fill)


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_transaction_that_idled_for_too_long_is_begun_again(engine: Engine) -> None:
    """So it goes for a process that was stopped for a while (SIGSTOP, a sleeping machine) within a transaction."""
    again_seen = []

    def body(connection: Connection, again: bool) -> None:
        again_seen.append(again)
        if not again:
            raise_sqlstate("25P03")(connection, again)

    write(engine, body, sleep=no_pause)
    assert again_seen == [False, True]


@pytest.mark.parametrize("database_kind", ["postgres"], indirect=True)
def test_a_server_that_turned_read_only_is_waited_for(
    engine: Engine, database_url: str, postgres_server: PostgresServer
) -> None:
    """Managed servers do so when their disk is full; a standby is so after a failover."""
    name = str(engine.url.database)
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    with pytest.raises(DatabaseReadOnly):
        write(engine, fill, sleep=no_pause)
    assert read(engine, lambda c: c.execute(text("SELECT 1")).scalar_one()) == 1
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    engine.dispose()
    write(engine, fill)


# --------------------------------------------------------------------------- five minutes


class SlowPool:
    """Two slots that take three seconds a film, on the test's clock."""

    deadline_s = 60.0

    def __init__(self) -> None:
        self.jobs: dict[int, tuple[Claim, Job, float]] = {}
        self.read: Counter[bytes] = Counter()
        self.now = 0.0

    @property
    def idle(self) -> int:
        return 2 - len(self.jobs)

    @property
    def in_flight(self) -> list[Claim]:
        return [claim for claim, _, _ in self.jobs.values()]

    def held_for(self, _seconds: float) -> list[Claim]:
        return []

    def submit(self, claim: Claim, job: Job) -> None:
        self.jobs[claim.file_id] = claim, job, self.now + 3.0
        self.read[claim.path] += 1

    def ended(self) -> list[Claim]:
        over = [claim for claim, _, at in self.jobs.values() if at <= self.now]
        for claim in over:
            del self.jobs[claim.file_id]
        return over


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While the one value is true, no verb of the ledger reaches the database."""
    away = [False]
    for verb, really in (("read", read), ("write", write)):

        def call(*arguments: Any, really: Any = really, **options: Any) -> Any:
            if away[0]:
                raise DatabaseAway
            return really(*arguments, **options)

        for module in [module for name, module in sys.modules.items() if name.startswith("preread.")]:
            if getattr(module, verb, None) is really:
                monkeypatch.setattr(module, verb, call)
    return away


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_five_minutes_without_the_database_lose_and_double_nothing(
    engine: Engine, tmp_path: Path, stub_bundle: Bundle, outage: list[bool]
) -> None:
    """Films arrive, change and go all the while; the folder and the slots keep what the database cannot."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    root = os.fsencode(folder)
    ledger = Ledger(engine, worker_id="one", lease_s=3600)
    root_id = ledger.register_root(root, population=Population.CHILDREN_1_5Y)
    bundle_id = ledger.register_bundle(name="stub", version="1", digest=stub_bundle.digest)
    monitor = RootMonitor(root, root_id, ledger, MonitorOptions(poll=True))
    watched = WatchedRoot(
        root_id, root, Population.CHILDREN_1_5Y, None, monitor.request_path_check, monitor.request_full_scan
    )
    pool, now = SlowPool(), 0.0
    run = RunContext(ledger, stub_bundle, bundle_id, {root_id: watched}, clock=lambda: now)
    dispatcher = Dispatcher(run, pool)  # type: ignore[arg-type]
    tick_at, pause_s, failures = 0.0, 0.5, 0
    for second in range(1, 900):
        now = pool.now = float(second)
        outage[0] = 100 <= second < 400
        if second % 10 == 0 and second < 450:
            (folder / f"{second}").write_bytes(b"first" * (second % 7 + 1))
        if second in {150, 200}:
            (folder / "50").write_bytes(b"another" * second)  # done before; changed twice meanwhile
        if second == 250:
            (folder / "120").unlink()  # came and went unseen: no one can know of it
            (folder / "60").unlink()
        if now >= tick_at:
            try:
                tick_at = now + monitor.run_step(now)
                pause_s = 0.5
            except DatabaseAway:
                failures += 1
                tick_at, pause_s = now + pause_s, min(2 * pause_s, 30.0)  # as the root's thread does
        for claim in pool.ended():
            report = Report(Outcome.UNREADABLE, f"{claim.file_id:064x}", 5.0, code="unknown_format", reason="a letter")
            dispatcher.handle(Done(claim, report))
        dispatcher.work([root_id])
    assert failures > 5
    assert dispatcher.database.away_since is None
    assert dispatcher.is_idle()
    there = {os.fsencode(name) for name in os.listdir(folder)}
    known = ledger.newest_versions(root_id, sorted(there | {b"60"}))
    assert {path for path, version in known.items() if version.state is FileState.QUARANTINED} == there
    assert known[b"60"].state is FileState.VANISHED
    assert known[b"50"].size_bytes == len(b"another" * 200)
    assert pool.read == Counter(there | {b"60"}) + Counter([b"50"])
    with closing(engine.connect()) as connection:
        attempts = connection.execute(select(func.max(schema.file.c.attempts))).scalar_one()
        moves = connection.execute(
            select(func.count()).where(schema.transition.c.to_state == FileState.QUARANTINED)
        ).scalar_one()
    assert attempts == 1
    assert moves == len(there) + 2
