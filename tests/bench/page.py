"""How long the page's queries take at a million films: fills an empty database with made-up rows, then asks.

Run by hand, on a database of its own: ``python -m tests.bench.page sqlite:////srv/million.db`` (or a Postgres URL).
The database must be new, or one that this filled before, with as many films: rows that were measured with are no films.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from sqlalchemy import Engine, bindparam, text, update

from preread.core.types import OPEN_STATES, Answer, Outcome
from preread.db import migrate, schema
from preread.db.engine import database_now, open_engine
from preread.model import bundles
from preread.monitoring import health
from preread.review import agreement, history, related_images, results, reviews, worklist
from preread.review.results import ResultFilter
from preread.review.worklist import Order, WorklistFilter

TIMES = 40
# A film every ten seconds. Of a hundred three are still to be read, ten flagged, five uncertain, thirteen refused.
FILL = """
INSERT INTO root (id, path, path_key, path_text, population, registered_at)
VALUES (1, :empty, :empty, '/srv', 'undeclared', :now);
INSERT INTO bundle (id, name, version, digest, manifest, registered_at)
VALUES (1, 'films', '1', 'd', :manifest, :now);
INSERT INTO instance (id, sha256, size_bytes, format, first_read_at)
{NUMBERS} SELECT i, 'sha' || i, 1000000, 'DICOM', :now FROM n;
INSERT INTO assessment (id, instance_id, bundle_id, decoder, pixel_caveats, activation_map, activation_map_shape,
  assessed_at)
{NUMBERS} SELECT i, i, 1, 'numpy', '[]', :empty, '0,0', :now FROM n WHERE i % 100 < 85;
INSERT INTO finding (assessment_id, finding, position, logit, probability, prevalence, answer)
{NUMBERS} SELECT i, 'pneumonia', 0, 0, 0.5, 0.3, CASE WHEN i % 100 < 10 THEN 'flagged' WHEN i % 100 < 15
  THEN 'uncertain' ELSE 'not_flagged' END FROM n WHERE i % 100 < 85;
INSERT INTO file (id, root_id, path, path_key, path_text, size_bytes, mtime_ns, inode, newest, backlog, state,
  attempts, interruptions, alone, epoch, first_seen_at, committed_at, changed_at, outcome, code, research,
  gate_caveats, uid_conflict, instance_id, assessment_id, answer, bundle_id, read_at, device, patient_name_key,
  patient_name, patient_id, patient_birth_date, study_instance_uid, accession_number, acquired_local, age_conflict)
{NUMBERS} SELECT i, 1, {BLOB}, {BLOB}, 'film' || i, 1000000, 1, i, {TRUE}, {FALSE},
  CASE WHEN i % 100 < 98 THEN 'done' ELSE 'quarantined' END, 1, 0, {FALSE}, 1, {SEEN}, {COMMITTED}, {COMMITTED},
  CASE WHEN i % 100 < 85 THEN 'assessed' WHEN i % 100 < 98 THEN 'refused' ELSE 'unreadable' END,
  CASE WHEN i % 100 < 85 THEN NULL ELSE 'view' END, {FALSE}, '[]', {FALSE}, i,
  CASE WHEN i % 100 < 85 THEN i END, CASE WHEN i % 100 < 10 THEN 'flagged' WHEN i % 100 < 15 THEN 'uncertain'
  WHEN i % 100 < 85 THEN 'not_flagged' END, 1, CASE WHEN i > :count * 0.97 THEN NULL ELSE :now END, 'ROOM ' || (i % 12),
  'name' || (i * 7919 % 100003) || ' given', 'NAME^GIVEN', 'P' || (i / 3), '2020-01-01', '1.2.' || (i / 2),
  'A' || i, {TAKEN}, {FALSE} FROM n;
INSERT INTO transition (file_id, from_state, to_state, at, why, epoch)
{NUMBERS} SELECT i, 'claimed', 'done', :now, 'assessed', 1 FROM n WHERE i > :count - 1000;
INSERT INTO account (id, name, full_name, role, created_at, failures, read_before_reveal)
VALUES (1, 'ada', 'Dr Ada', 'reader', :now, 0, {FALSE});
INSERT INTO reading (file_id, account_id, outcome, assessment_id, bundle_id, instance_id, verdict, comment,
  answer_visible, signed_at, waited_s, overtook, form_token)
{NUMBERS} SELECT i, 1, 'assessed', i, 1, i, CASE WHEN i % 20 = 0 THEN 'rejected' ELSE 'accepted' END, '', {TRUE},
  {COMMITTED}, i % 3600, i % 5, 'form' || i FROM n WHERE i % 100 < 85 AND i <= :count * 0.97
"""
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
WORDS = {
    "sqlite": {
        "NUMBERS": NUMBERS,
        "BLOB": "CAST(i AS BLOB)",
        "SEEN": "strftime('%Y-%m-%d %H:%M:%f000', :now, '-' || ((:count - i) * 10) || ' seconds')",
        "COMMITTED": "strftime('%Y-%m-%d %H:%M:%f000', :now, '-' || ((:count - i) * 10) || ' seconds', '+5 seconds')",
        "TAKEN": "strftime('%Y%m%d%H%M%S', :now, '-' || ((:count - i) * 10 + 60) || ' seconds')",
        "TRUE": "1",
        "FALSE": "0",
    },
    "postgresql": {
        "NUMBERS": NUMBERS.replace(":count", "CAST(:count AS bigint)").replace("SELECT 1", "SELECT CAST(1 AS bigint)"),
        "BLOB": "decode(lpad(to_hex(i), 16, '0'), 'hex')",
        "SEEN": "CAST(:now AS timestamptz) - (:count - i) * interval '10 seconds'",
        "COMMITTED": "CAST(:now AS timestamptz) - ((:count - i) * 10 - 5) * interval '1 second'",
        "TAKEN": "to_char(CAST(:now AS timestamptz) - ((:count - i) * 10 + 60) * interval '1 second', "
        "'YYYYMMDDHH24MISS')",
        "TRUE": "true",
        "FALSE": "false",
    },
}


def fill(engine: Engine, count: int) -> None:
    """Put ``count`` made-up films of a root /srv into an empty database."""
    dialect = engine.dialect.name
    sql = FILL
    for word, meant in WORDS[dialect].items():
        sql = sql.replace("{" + word + "}", meant)
    with engine.begin() as connection:
        now = database_now(connection)
        if dialect == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        known: dict[str, object] = {
            "now": now if dialect == "postgresql" else now.strftime("%Y-%m-%d %H:%M:%S.%f"),
            "count": count,
            "empty": b"",
            "manifest": bundles.load_bundle(bundles.find_bundle()).manifest_json,
        }
        for statement in sql.split(";"):
            values = {name: value for name, value in known.items() if f":{name}" in statement}
            connection.execute(text(statement), values)
        if dialect == "postgresql":
            for table in ("root", "bundle", "instance", "assessment", "file", "transition", "account", "reading"):
                last = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
                connection.execute(text(last))
        if dialect == "sqlite":
            connection.execute(text("ANALYZE"))
    if dialect == "postgresql":  # what a server does by itself within minutes of so many rows
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def renew(engine: Engine, count: int) -> None:
    """Let the last films arrive anew: in a database that lay for a while none would stand behind others any more."""
    with engine.begin() as connection:
        now = database_now(connection)
        seen = [{"film": i, "at": now - timedelta(seconds=(count - i) * 10)} for i in range(count - 500, count + 1)]
        film = update(schema.file).where(schema.file.c.id == bindparam("film"))
        connection.execute(film.values(first_seen_at=bindparam("at")), seen)


def questions(engine: Engine, count: int) -> dict[str, Callable[[], object]]:
    """Return what the page asks, by what a person calls it."""

    def listed(**wanted: object) -> Callable[[], object]:
        return lambda: worklist.list_worklist_page(engine, WorklistFilter(**wanted))  # type: ignore[arg-type]

    def taken(first: date, days: int, **wanted: object) -> Callable[[], object]:
        last = first + timedelta(days=days - 1)
        return listed(order=Order.NEWEST, unread=False, taken_from=first, taken_to=last, **wanted)

    (film,) = results.query_results(engine, ResultFilter(limit=1))
    middle = (film.committed_at - timedelta(seconds=10 * count / 2)).date()
    return {
        "worklist, to be read, by arrival": listed(),
        "worklist, flagged and uncertain first": listed(order=Order.PRIORITY),
        "worklist, what priority displaces": lambda: worklist.count_displaced(engine),
        "all films, newest first": listed(order=Order.NEWEST, unread=False),
        "all films, a page in the middle": listed(order=Order.NEWEST, unread=False, after=(0, count // 2)),
        "all films, flagged": listed(order=Order.NEWEST, unread=False, answer=Answer.FLAGGED),
        "all films, the first flagged": listed(unread=False, answer=Answer.FLAGGED),
        "all films, not flagged": listed(order=Order.NEWEST, unread=False, answer=Answer.NOT_FLAGGED),
        "all films, refused": listed(order=Order.NEWEST, unread=False, outcome=Outcome.REFUSED),
        "all films, unreadable": listed(order=Order.NEWEST, unread=False, outcome=Outcome.UNREADABLE),
        "all films of one device": listed(order=Order.NEWEST, unread=False, device="ROOM 7"),
        "to be read, of one device": listed(device="ROOM 7"),
        "all films of a day": taken(middle, 1),
        "all films of a week": taken(middle, 7),
        "all films of a month": taken(middle, 30),
        "all films of a device, flagged, of a day": taken(middle, 1, device="ROOM 7", answer=Answer.FLAGGED),
        "all films since a day": taken(middle, 365),
        "films of a day, of a device that has none": taken(middle, 1, device="ROOM 99"),
        "search by patient ID": listed(search=f"P{count // 2}"),
        "search by accession number": listed(search=f"A{count // 2}"),
        "search by a name's beginning": listed(search="name50"),
        "search that finds nothing": listed(search="nobody"),
        "devices for the filter": lambda: worklist.list_devices(engine),
        "the state on every page": lambda: health.report(engine, roots=None, scan_interval_s=30.0, states=OPEN_STATES),
        "results, the last 100": lambda: results.query_results(engine, ResultFilter()),
        "results, flagged": lambda: results.query_results(engine, ResultFilter(answer=Answer.FLAGGED)),
        "results, refused for its view": lambda: results.query_results(engine, ResultFilter(code="view")),
        "results of a patient": lambda: results.query_results(engine, ResultFilter(patient_id=f"P{count // 2}")),
        "results of an accession number": lambda: results.query_results(
            engine, ResultFilter(accession_number=f"A{count // 2}")
        ),
        "one film": lambda: history.load_result(engine, film.result_id),
        "its earlier films": lambda: related_images.earlier_images(engine, film),
        "statistics": lambda: agreement.count_agreement(engine),
        "its readings": lambda: reviews.list_reviews(engine, [film.result_id]),
    }


def processor_s(engine: Engine) -> float:
    """Return the processor time that this process and, on this machine's Postgres, its server's process have used."""
    used = time.process_time()
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        fields = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def main(url: str, count: int = 1_000_000) -> None:
    """Fill an empty database, ask, and print a line a question; processor time tells also on a busy machine."""
    engine = open_engine(url)
    migrate.upgrade_schema(engine)
    began = time.perf_counter()
    if not worklist.list_worklist_page(engine, WorklistFilter(unread=False, limit=1)).studies:
        fill(engine, count)
        sys.stdout.write(f"{count} films in {engine.dialect.name}, filled in {time.perf_counter() - began:.0f} s\n")
    renew(engine, count)
    sys.stdout.write("| question | median ms | p95 ms | processor ms |\n| --- | --- | --- | --- |\n")
    for name, ask in questions(engine, count).items():
        ask()
        took, used = [], processor_s(engine)
        for _ in range(TIMES):
            began = time.perf_counter()
            ask()
            took.append((time.perf_counter() - began) * 1000)
        used = (processor_s(engine) - used) / TIMES * 1000
        p95 = statistics.quantiles(took, n=20)[-1]
        sys.stdout.write(f"| {name} | {statistics.median(took):.1f} | {p95:.1f} | {used:.1f} |\n")
        sys.stdout.flush()
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1], *(int(one) for one in sys.argv[2:]))
