"""``make prove``: kill and starve a real worker on real folders, temporary ones only, and print what was found.

``make prove`` takes minutes and a sample of every part; ``make prove LONG=1`` all points, a thousand kills on each
database and 100,000 films. Ends with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.prove import kills, points, rows, size
from tests.prove.bench import Database, Postgres, Row, Sqlite
from tests.support.hardware import memory_bytes, processor
from tests.support.postgres import PostgresServer

# How much of each part: (quick, long). 0 points: all of them.
AMOUNTS = {
    "crash": (12, 0),
    "slot": (4, 0),
    "statements": (8, 0),
    "answers": (6, 0),
    "kills": (20, 1_000),
    "files": (80, 2_000),
    "stopped": (1, 6),
    "installed": (3, 40),
    "backlog": (2_000, 100_000),
    "storm": (2_000, 40_000),
    "rows": (2_000, 1_000_000),
}
HEAD = "| part | database | worker | done to it | films | lost | twice | orphans | innocent set aside | seen | held |"


def parts(database: Database, folder: Path, amount: dict[str, int], *, timed_out: bool) -> dict[str, Callable[[], Row]]:
    """Return the parts for one database, by the names that ``--part`` takes."""
    found: dict[str, Callable[[], Row]] = {
        "crash": lambda: points.process_ends(folder, database, amount["crash"]),
        "slot": lambda: points.slot_ends(folder, database, amount["slot"]),
        "statements": lambda: points.statements_fail(folder, database, amount["statements"]),
        "kills": lambda: kills.at_random(folder, database, amount["kills"], amount["files"]),
        "stopped": lambda: kills.stopped(folder, database, amount["stopped"]),
        "installed": lambda: kills.installed_worker(folder, database, amount["installed"]),
        "backlog": lambda: size.backlog(folder, database, amount["backlog"], timed_out=timed_out),
        "storm": lambda: size.storm(folder, database, amount["storm"], timed_out=timed_out),
        "rows": lambda: rows.commands(folder, database, amount["rows"]),
    }
    if isinstance(database, Postgres):
        found["answers"] = lambda: points.answers_lost(folder, database, amount["answers"])
    return found


def machine() -> str:
    """Return one line about what this ran on."""
    return (
        f"{os.cpu_count()} cores of {processor()}, {memory_bytes() / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def markdown(rows: list[Row]) -> Iterator[str]:
    """Yield the table's lines."""
    yield HEAD
    yield "| --- " * (HEAD.count("|") - 1) + "|"
    for row in rows:
        seen = f"{row.note}; {row.took_s:.0f} s" if row.note else f"{row.took_s:.0f} s"
        counts = f"{row.files:,} | {row.lost} | {row.twice} | {row.orphans} | {row.innocent}"
        held = "yes" if row.held else "**no**"
        yield f"| {row.part} | {row.database} | {row.worker} | {row.done} | {counts} | {seen} | {held} |"


def main() -> int:
    """Run the proof."""
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--long", action="store_true", help="all points, a thousand kills, 100,000 films")
    parser.add_argument("--part", action="append", choices=[name for name in AMOUNTS if name != "files"])
    parser.add_argument("--database", choices=["SQLite", "Postgres"], help="one of the two; default: both")
    parser.add_argument("--amount", action="append", default=[], metavar="PART=N", help="another count for a part")
    parser.add_argument("--in", dest="folder", type=Path, help="where temporary folders are made (default: TMPDIR)")
    arguments = parser.parse_args()
    amount = {name: both[arguments.long] for name, both in AMOUNTS.items()}
    amount |= {name: int(number) for name, _, number in (one.partition("=") for one in arguments.amount)}
    began, table = time.monotonic(), []
    with tempfile.TemporaryDirectory(
        prefix="preread-prove-", dir=arguments.folder, ignore_cleanup_errors=True
    ) as place:
        folder = Path(place)
        (folder / "postgres").mkdir()
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres")
        try:
            for database in (Sqlite(folder), Postgres(server)):
                if arguments.database not in {None, database.name}:
                    continue
                for name, part in parts(database, folder, amount, timed_out=arguments.long).items():
                    if arguments.part and name not in arguments.part:
                        continue
                    print(f"{datetime.now(UTC):%H:%M:%S} {database.name}: {name} ...", file=sys.stderr, flush=True)
                    table.append(part())
                    for failure in table[-1].failures:
                        print(f"  {failure}", file=sys.stderr, flush=True)
        finally:
            server.stop()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {(time.monotonic() - began) / 60:.0f} min.\n")
    print("\n".join(markdown(table)))
    return 0 if all(row.held for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
