"""``preread check``: could the worker start, and if not, what is to be done."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from preread.admin import purge_journal
from preread.cli import context as door
from preread.cli import in_use, output, self_check
from preread.cli.global_options import global_options
from preread.cli.roots import PopulationName, PopulationOption, RootOption, chosen
from preread.core.errors import PrereadError
from preread.core.filesystems import file_system_type, missing_mount, network_file_system
from preread.core.settings import Settings, refuse_within
from preread.core.types import RootSpec
from preread.db import audit_key, migrate
from preread.db.engine import check_place, open_engine, read, sqlite_path
from preread.imaging import previews
from preread.model import bundles
from preread.runner.confine import confinement
from preread.runner.loop import RunOptions, setup_of
from preread.runner.pool import InferencePool

SHARE_TIMEOUT_S = 10.0
# What takes part in an answer; a report of a mismatch needs their versions.
PACKAGES = ("preread", "ai-edge-litert", "numpy", "pillow", "pydicom", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs")


@dataclass(frozen=True, slots=True)
class Checked:
    """One line of the answer.

    Attributes:
        what: what was looked at.
        ok: whether the worker can start as far as this goes.
        found: what was found, in words.
        remedy: what to do; empty when nothing is.
        warning: the worker can start, and something that matters is missing.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""
    warning: bool = False

    @property
    def word(self) -> str:
        """What stands in the table."""
        return "NOT OK" if not self.ok else "warning" if self.warning else "ok"


def check(
    context: typer.Context,
    root: RootOption = None,
    population: PopulationOption = "undeclared",
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record a check")] = False,
) -> None:
    """Check whether the worker can start on this machine.

    Checks settings, database, watched folders, bundle and disk space, and prints what to do about each problem.

    Exit code: 0 only when the worker could start; else 1.
    """
    results = []
    for checked in _all(context, root, population):
        results.append(checked)
        if json:
            output.print_json(asdict(checked))
    if not json:
        rows = ((r.what, r.word, r.found, r.remedy) for r in results)
        output.print_table(("check", "", "found", "what to do"), rows, medical=False)
    failed = sum(not checked.ok for checked in results)
    warned = sum(checked.ok and checked.warning for checked in results)
    more = f"; {warned} warning{'s' * (warned > 1)}" if warned else ""
    output.say((f"{failed} of {len(results)} checks failed" if failed else "the worker can start") + more)
    if failed:
        raise typer.Exit(1)


def _all(context: typer.Context, root: list[Path] | None, population: PopulationName) -> Iterator[Checked]:
    yield Checked("versions", True, _versions())
    try:
        settings = door.read_settings(context)
    except PrereadError as error:
        yield _failed("settings", error)
        return
    yield Checked("settings", True, "every name is known and every value can be meant")
    database = _tried("database", partial(_database, settings))
    yield database
    yield _tried("disk space", partial(_disk, settings))
    yield _tried("previews", partial(_previews, settings))
    yield _tried("added bundles", partial(_bundles, settings))
    yield _tried("purged files", partial(_purged, settings))
    yield _tried("audit trail's key", partial(_audit_key, settings, there=database.ok))
    yield _tried("rights", partial(_rights, global_options(context).config, settings))
    try:
        roots = chosen(settings, root, population)
    except PrereadError as error:
        yield _failed("shares", error)
    else:
        for spec in roots:
            yield _tried(f"share {spec.path}", partial(_share, settings, spec))
    bundle = _tried("bundle", partial(_bundle, settings))
    yield bundle
    if bundle.ok:  # else no slot starts, for that reason
        yield _tried("slots", partial(_slots, settings))


def _tried(what: str, action: Callable[[], Checked]) -> Checked:
    try:
        return action()
    except PrereadError as error:
        return _failed(what, error)


def _failed(what: str, error: Exception) -> Checked:
    hint = error.hint if isinstance(error, PrereadError) else ""
    return Checked(what, False, str(error), hint)


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    python = (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, SQLite {sqlite3.sqlite_version}"
    )
    return f"{python}; {', '.join(found)}"


def _database(settings: Settings) -> Checked:
    engine = open_engine(settings.database_url)
    where = door.show_url(settings.database_url)
    try:
        path = sqlite_path(engine)
        if path is not None:
            where += f" on {file_system_type(path)}"
            check_place(path)
        migrate.check_schema(engine)
    finally:
        engine.dispose()
    return Checked("database", True, f"{where} answers and has this version's schema")


def _disk(settings: Settings) -> Checked:
    engine = open_engine(settings.database_url)
    path = sqlite_path(engine)
    engine.dispose()
    if path is None:
        return Checked("disk space", True, "the database keeps its own disk; nothing is stored here")
    remedy = "Free some space, or put the database elsewhere (PREREAD_DATABASE_URL)."
    return _space("disk space", path.resolve().parent, settings.min_free_bytes, remedy)


def _previews(settings: Settings) -> Checked:
    engine = open_engine(settings.database_url)
    folder = previews.preview_folder(settings.preview_dir, sqlite_path(engine))
    engine.dispose()
    if folder is None:
        return _unnamed("previews", "PREREAD_PREVIEW_DIR", "the page shows no images", "previews")
    remedy = "Films are assessed without. Free some space, or name another folder (PREREAD_PREVIEW_DIR)."
    return _space("previews", folder, settings.min_free_bytes, remedy)


def _bundles(settings: Settings) -> Checked:
    folder = in_use.added_folder(settings)
    if folder is None:
        return _unnamed("added bundles", "PREREAD_BUNDLE_DIR", "no bundle can be added", "bundles")
    return Checked("added bundles", True, f"lie in {folder}")


def _purged(settings: Settings) -> Checked:
    engine = open_engine(settings.database_url)
    journal = purge_journal.path_for(settings.forgotten_file, sqlite_path(engine))
    engine.dispose()
    if journal is None:
        why = f"purge is refused, since {purge_journal.WHY}"
        return _unnamed("purged files", "PREREAD_FORGOTTEN_FILE", why, "forgotten")
    if hindrance := purge_journal.write_obstacle(journal):
        remedy = "Purge is refused. Give the service's user the right to write it, or name another file."
        return Checked("purged files", True, hindrance, remedy, warning=True)
    return Checked("purged files", True, f"are remembered by keyed hashes in {journal}")


def _audit_key(settings: Settings, *, there: bool) -> Checked:
    """Look for the key, and, in a database that is there, whether it is the one of its entries."""
    what = "audit trail's key"
    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        path = audit_key.of(engine).path
        if path is None:
            return _unnamed(
                what, "PREREAD_AUDIT_KEY_FILE", "who can write to it can forge the audit trail", "audit-key"
            )
        fault = read(engine, audit_key.of(engine).fault) if there else None
    finally:
        engine.dispose()
    if fault is not None:
        remedy = "Put it back. If it is lost: look at `preread audit verify`, then `preread audit rekey`."
        return Checked(what, True, fault, remedy, warning=True)
    return Checked(what, True, f"{'lies in' if path.exists() else 'will lie in'} {path}")


def _rights(config: Path | None, settings: Settings) -> Checked:
    """Look for what holds patient data or secrets, and is open to others."""
    engine = open_engine(settings.database_url, settings.audit_key_file)
    engine.dispose()
    database = sqlite_path(engine)
    config = config or Path(os.environ.get("PREREAD_CONFIG") or "preread.toml")
    beside = () if database is None else tuple(Path(f"{database}{ending}") for ending in ("-wal", "-shm"))
    private = (database, *beside, previews.preview_folder(settings.preview_dir, database), settings.web_tls_key)
    keys = (audit_key.of(engine).path, purge_journal.path_for(settings.forgotten_file, database))
    open_to = [f"{path} ({mode:o})" for path in private if path and (mode := _mode(path)) & 0o007]
    open_to += [f"{path} ({mode:o})" for path in keys if path and (mode := _mode(path)) & 0o077]
    if _holds_password(settings) and (mode := _mode(config)) & 0o007:
        open_to.append(f"{config}, which holds a password ({mode:o})")
    if open_to:
        remedy = "Take the rights of others away: `chmod o-rwx`, for keys `chmod 600`."
        return Checked("rights", True, f"other users may read or change {', '.join(open_to)}", remedy, warning=True)
    return Checked("rights", True, "no other user reads or changes the database, previews, keys and passwords")


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return 0  # what is not there is open to nobody


def _holds_password(settings: Settings) -> bool:
    return any(
        ":" in url.partition("://")[2].rpartition("@")[0]
        for url in (settings.database_url, settings.alarm_mail_server or "", settings.alarm_webhook or "")
    )


def _unnamed(what: str, setting: str, why: str, name: str) -> Checked:
    """Return what to say where the database is no file beside which a place could be taken."""
    found = f"with Postgres {setting} names no place: {why}"
    return Checked(what, True, found, f"Name one on this machine, such as /var/lib/preread/{name}.", warning=True)


def _space(what: str, folder: Path, min_free_bytes: int, remedy: str) -> Checked:
    """See whether there is space and a right to write where ``folder`` is, or is to be made."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    free_bytes = shutil.disk_usage(place).free
    found = f"{free_bytes / 1e9:.1f} GB free at {place}"
    if free_bytes < min_free_bytes:
        return Checked(what, False, f"{found}; PREREAD_MIN_FREE_BYTES is {min_free_bytes}", remedy)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return Checked(what, False, f"{place} may not be written, or is no folder", remedy)
    return Checked(what, True, found)


def _share(settings: Settings, spec: RootSpec) -> Checked:
    engine = open_engine(settings.database_url)
    engine.dispose()
    refuse_within(spec, sqlite_path(engine), "database", "PREREAD_DATABASE_URL")

    what = f"share {spec.path}"
    problem = _within(SHARE_TIMEOUT_S, partial(_list, spec.path))
    if problem is not None:
        return Checked(what, False, problem, "Check the mount, the path and the rights of the worker's user.")
    reason = network_file_system(spec.path)
    if spec.poll is None:
        mode = f"polled ({reason})" if reason else "watched by events"
    else:
        mode = "polled (as set)" if spec.poll else "watched by events (as set)"
    declared = f"population {spec.population.value}"
    return Checked(what, True, f"can be listed; {file_system_type(spec.path)}; {mode}, and scanned; {declared}")


def _list(path: Path) -> str | None:
    try:
        with os.scandir(path) as listing:
            empty = next(listing, None) is None
    except OSError as error:
        return f"cannot be listed: {error.strerror}"
    if empty and (point := missing_mount(path)):
        return f"is empty: /etc/fstab names {point}, and nothing is mounted there"
    return None if os.access(path, os.R_OK | os.X_OK) else "its files may not be opened"


def _within(timeout_s: float, action: Callable[[], str | None]) -> str | None:
    """Run an action that a dead share could block for ever; the thread is left behind then."""
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(action()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0] if answer else f"does not answer within {timeout_s:g} s"


def _bundle(settings: Settings) -> Checked:
    classifier = self_check.load_checked(in_use.path(settings))[0]
    bundle = classifier.bundle
    return Checked(
        "bundle", True, f"{bundle.label} is whole and gives its golden results here; digest {bundle.digest[:12]}"
    )


def _slots(settings: Settings) -> Checked:
    """Start a slot, which decodes an image of each codec once it is confined."""
    options = RunOptions(slot_memory_bytes=settings.slot_memory_bytes, require_confinement=settings.require_confinement)
    bundle = bundles.load(bundles.resolve(in_use.path(settings)))
    began = time.monotonic()
    pool: InferencePool[None] = InferencePool(setup_of(bundle, options), count=1, deadline_s=options.deadline_s)
    try:
        while not pool.idle:
            pool.poll(1.0)
        took_s = time.monotonic() - began
        lacking = pool.lacking
    finally:
        pool.close()
    found = f"one started in {took_s:.1f} s and decodes an image of each codec, confined by seccomp and Landlock"
    if not lacking:
        return Checked("slots", True, found)
    found = f"{found}, but this machine has no {', no '.join(map(confinement.named, lacking))}"
    if confinement.ESSENTIAL.isdisjoint(lacking):
        return Checked("slots", True, found)
    remedy = "Films are read with less protection: see `degraded` in the runbook. A kernel from 5.13 has both."
    return Checked("slots", True, f"degraded: {found}", remedy, warning=True)
