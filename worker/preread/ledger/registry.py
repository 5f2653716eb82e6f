"""Watched folders and workers: registration, heartbeats, liveness.

A worker writes into its row, and into those of its roots, every few seconds; ``preread.monitoring.health`` reports rows
that nobody has written for a while.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, case, func, select, update

from preread.core.text.escaping import clean_text, display_path
from preread.core.types import FileState, Outcome, Population, RefusalCode
from preread.db import schema
from preread.db.statements import insert_or_skip
from preread.ledger.records import Pulse, RootPulse
from preread.ledger.transaction import Transaction, transaction
from preread.ledger.transitions import FRESH_START, move_versions, normalise_root_path, path_key

_PROC = Path("/proc")

DECLARED_ANEW = "the root declares another population"

# Refusals that another declaration of the root may turn: the gate asks the declaration for these and for no other.
_REFUSED_BY_DECLARATION = (RefusalCode.AGE_UNKNOWN, RefusalCode.AGE_OUTSIDE, RefusalCode.VIEW)
_file, _root, _worker = schema.file.c, schema.root.c, schema.worker.c


# ---------------------------------------------------------------------- watched folders


@transaction
def register_root(
    tx: Transaction, path: bytes, *, population: Population = Population.UNDECLARED, path_pattern: str | None = None
) -> int:
    """Store a watched folder and its declaration; return its id.

    Newest versions that were refused for their age or view under another declaration become READY, to be judged anew.
    What was assessed stands, with the declaration under which it was.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        path: absolute, as ``os.fsencode`` gives it.
        population: declared population of the folder's images.
        path_pattern: pattern by which paths give the identity of an image; ``None`` if they give none.
    """
    path = normalise_root_path(path)
    _reopen_refused(tx, path, population, path_pattern)
    row: schema.Row = {
        "path": path,
        "path_key": path_key(path),
        "path_text": display_path(path),
        "population": population,
        "path_pattern": path_pattern,
        "registered_at": tx.now,
    }
    insert_or_skip(tx.connection, schema.root, [row])
    declared = update(schema.root).where(_root.path_key == path_key(path))
    declared = declared.values(population=population, path_pattern=path_pattern)
    return tx.connection.execute(declared.returning(_root.id)).scalar_one()


def _reopen_refused(tx: Transaction, path: bytes, population: Population, path_pattern: str | None) -> None:
    """Move versions that the root's stored declaration refused to READY.

    The population under which a version was judged stands in its own row, so that nothing moves when a worker starts
    again with the same declaration.
    """
    stored = select(_root.id, _root.path_pattern).where(_root.path_key == path_key(path))
    root = tx.connection.execute(stored).one_or_none()
    if root is None:
        return
    refused = (
        select(_file.id)
        .where(_file.root_id == root.id, _file.state == FileState.DONE, _file.newest)
        .where(_file.outcome == Outcome.REFUSED, _file.code.in_(_REFUSED_BY_DECLARATION))
        .order_by(_file.id)
    )
    if root.path_pattern == path_pattern:
        refused = refused.where(_file.population != population)
    file_ids = tx.connection.execute(refused).scalars().all()
    move_versions(tx, file_ids, FileState.DONE, FileState.READY, DECLARED_ANEW, **FRESH_START)


@transaction
def record_scan_start(tx: Transaction, root_id: int) -> bool:
    """Record the start of a folder's full scan; return ``True`` for the first.

    The first scan lists the folder's backlog.
    """
    started = update(schema.root).where(_root.id == root_id).values(last_scan_started_at=tx.now)
    return tx.connection.execute(started.returning(_root.counted_at)).scalar_one() is None


@transaction
def record_backlog_listed(tx: Transaction, root_id: int) -> None:
    """Record that a watched folder's backlog has been listed.

    Files that a later scan finds are live.
    """
    tx.connection.execute(update(schema.root).where(_root.id == root_id).values(counted_at=tx.now))


@transaction
def record_scan_end(tx: Transaction, root_id: int, *, files_seen: int = 0) -> None:
    """Record that a full scan of a watched folder listed every folder."""
    started = select(_root.last_scan_started_at).where(_root.id == root_id)
    started_at: datetime | None = tx.connection.execute(started).scalar_one()
    tx.connection.execute(
        update(schema.root)
        .where(_root.id == root_id)
        .values(
            last_scan_completed_at=tx.now,
            last_scan_files=files_seen,
            last_scan_s=None if started_at is None else (tx.now - started_at).total_seconds(),
        )
    )


def _store_root_pulse(tx: Transaction, root: RootPulse) -> None:
    """Record the state of a root as this worker finds it."""
    values: dict[str, Any] = {"worker_id": tx.worker_id}
    if root.moves:
        values["looked_at"] = tx.now
    if root.fault is None:
        values |= {"fault_code": None, "fault": None, "fault_since": None}
    else:
        same = _root.fault_code == root.fault.code
        values |= {
            "fault_code": root.fault.code,
            "fault": clean_text(str(root.fault)),
            "fault_since": case((same, _root.fault_since), else_=tx.now),
        }
    tx.connection.execute(update(schema.root).where(_root.id == root.root_id).values(**values))


# ---------------------------------------------------------------------- workers


@transaction
def heartbeat(tx: Transaction, pulse: Pulse | None = None) -> None:
    """Record this worker's heartbeat and status in the database.

    Claims of a worker that sends none are recovered.

    Args:
        tx: the transaction; a ledger or an engine opens one.
        pulse: the worker's status and that of its roots; ``None`` leaves them as they are.
    """
    this_worker = _worker.id == tx.worker_id
    values: schema.Row = {"heartbeat_at": tx.now, "stopped_at": None}
    if pulse is not None:
        values |= {
            "scan_interval_s": pulse.scan_interval_s,
            "slots": pulse.slots,
            "slots_alive": pulse.slots_alive,
            "watcher_restarts": pulse.watcher_restarts,
            "slots_lack": " ".join(pulse.slots_lack) or None,
        }
        more = func.coalesce(_worker.watcher_restarts, 0) < pulse.watcher_restarts
        tx.connection.execute(update(schema.worker).where(this_worker, more).values(watcher_restarted_at=tx.now))
        if pulse.previews_dropped:
            first = update(schema.worker).where(this_worker, _worker.previews_dropped_since.is_(None))
            tx.connection.execute(first.values(previews_dropped_since=tx.now))
        else:
            values["previews_dropped_since"] = None
    if not tx.connection.execute(update(schema.worker).where(this_worker).values(**values)).rowcount:
        row: schema.Row = {
            "id": tx.worker_id,
            "host": this_host(),
            "pid": os.getpid(),
            "process_token": process_token(os.getpid()) or "",
            "program_version": _program_version(),
            "started_at": tx.now,
        }
        insert_or_skip(tx.connection, schema.worker, [row | values])
    for root in () if pulse is None else pulse.roots:
        _store_root_pulse(tx, root)


def _program_version() -> str:
    try:
        return version("preread")
    except PackageNotFoundError:  # run from a folder without being installed
        return "unknown"


@transaction
def mark_worker_stopped(tx: Transaction) -> None:
    """Record that this worker has stopped.

    Claims that it still holds can be recovered at once.
    """
    tx.connection.execute(update(schema.worker).where(_worker.id == tx.worker_id).values(stopped_at=tx.now))


def worker_may_run(worker: Row[Any]) -> bool:
    """Return whether a worker, by its row, may still be running.

    It may if it was not stopped and, if it is on this host, its process is alive.

    Args:
        worker: a row of the table ``worker``.
    """
    if worker.stopped_at is not None:
        return False
    elsewhere: bool = worker.host != this_host()
    return elsewhere or process_token(worker.pid) == worker.process_token


def is_worker_silent(worker: Row[Any], now: datetime, patience: timedelta) -> bool:
    """Return whether a worker's last heartbeat is older than ``patience``.

    Args:
        worker: a row of the table ``worker``.
        now: the time by the database's clock.
        patience: the longest time between two heartbeats.
    """
    return bool(worker.heartbeat_at < now - patience)


def dead_owners(connection: Connection) -> list[str]:
    """Return the ids of dead or stopped workers that hold claims.

    A worker on another host counts as alive until it is stopped.
    """
    holders = select(_file.owner).where(_file.state == FileState.CLAIMED).distinct()
    found = connection.execute(select(schema.worker).where(_worker.id.in_(holders)))
    return [row.id for row in found if not worker_may_run(row)]


# ---------------------------------------------------------------------- processes


def this_host() -> str:
    """Return a name for this host, its boot and its process-id namespace.

    Process ids are unique under one name. Two containers, or one host before and after a restart, have different names;
    a dead worker of another name is recovered when its lease runs out.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} {boot} {namespace}"


def process_token(pid: int) -> str | None:
    """Return a process's start time in clock ticks after boot.

    With it, a process is told from a later one with the same id. ``None`` if there is no such process or it only waits
    to be reaped. Without ``/proc``: ``""`` for a live one.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None if (_PROC / "self").exists() else _token_without_proc(pid)
    # the command's name, in parentheses, may itself hold spaces and parentheses: proc_pid_stat(5)
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else fields[19].decode("ascii")


def _token_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""
