"""``preread check``: check whether the worker can start."""

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
from preread.cli import output, self_check
from preread.cli.context import read_settings, show_url
from preread.cli.global_options import global_options
from preread.cli.messages import print_message
from preread.cli.roots import PopulationName, PopulationOption, RootOption, chosen
from preread.cli.selected_bundles import added_bundle_folder, load_bundle_in_use
from preread.core.errors import PrereadError
from preread.core.filesystems import file_system_type, missing_mount, network_file_system
from preread.core.settings import Settings, refuse_inside_root
from preread.core.types import RootSpec
from preread.db import audit_key, migrate
from preread.db.engine import check_sqlite_place, open_engine, read, sqlite_path
from preread.imaging import previews
from preread.runner.confine import confinement
from preread.runner.loop import RunOptions, build_setup
from preread.runner.pool import InferencePool

SHARE_TIMEOUT_S = 10.0
# Packages that influence a result; a report of a mismatch needs their versions.
PACKAGES = ("preread", "ai-edge-litert", "numpy", "pillow", "pydicom", "pylibjpeg-openjpeg", "pyjpegls", "imagecodecs")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check.

    Attributes:
        what: name of the check.
        ok: ``False`` if the worker cannot start because of it.
        found: description of what was found.
        remedy: what to do; empty if nothing.
        warning: the worker can start, but something important is missing.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""
    warning: bool = False

    @property
    def word(self) -> str:
        """Verdict for the table."""
        return "NOT OK" if not self.ok else "warning" if self.warning else "ok"


def check(
    context: typer.Context,
    root: RootOption = None,
    population: PopulationOption = "undeclared",
    json: Annotated[bool, typer.Option("--json", help="print JSON Lines, one record per check")] = False,
) -> None:
    """Check whether the worker can start on this machine.

    Checks settings, database, watched folders, bundle and disk space, and prints what to do about each problem.

    Exit code: 0 if the worker can start, else 1.
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
    print_message((f"{failed} of {len(results)} checks failed" if failed else "the worker can start") + more)
    if failed:
        raise typer.Exit(1)


def _all(context: typer.Context, root: list[Path] | None, population: PopulationName) -> Iterator[CheckResult]:
    yield CheckResult("versions", True, _versions())
    try:
        settings = read_settings(context)
    except PrereadError as error:
        yield _failed("settings", error)
        return
    yield CheckResult("settings", True, "every name is known and every value is valid")
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
    if bundle.ok:  # else no inference process starts, for the same reason
        yield _tried("slots", partial(_slots, settings))


def _tried(what: str, action: Callable[[], CheckResult]) -> CheckResult:
    try:
        return action()
    except PrereadError as error:
        return _failed(what, error)


def _failed(what: str, error: Exception) -> CheckResult:
    hint = error.hint if isinstance(error, PrereadError) else ""
    return CheckResult(what, False, str(error), hint)


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


def _database(settings: Settings) -> CheckResult:
    engine = open_engine(settings.database_url)
    where = show_url(settings.database_url)
    try:
        path = sqlite_path(engine)
        if path is not None:
            where += f" on {file_system_type(path)}"
            check_sqlite_place(path)
        migrate.check_schema(engine)
    finally:
        engine.dispose()
    return CheckResult("database", True, f"{where} is available and has this version's schema")


def _disk(settings: Settings) -> CheckResult:
    engine = open_engine(settings.database_url)
    path = sqlite_path(engine)
    engine.dispose()
    if path is None:
        return CheckResult("disk space", True, "the database server has its own disk; nothing is stored here")
    remedy = "Free some space, or put the database elsewhere (PREREAD_DATABASE_URL)."
    return _space("disk space", path.resolve().parent, settings.min_free_bytes, remedy)


def _previews(settings: Settings) -> CheckResult:
    engine = open_engine(settings.database_url)
    folder = previews.locate_preview_folder(settings.preview_dir, sqlite_path(engine))
    engine.dispose()
    if folder is None:
        return _unnamed("previews", "PREREAD_PREVIEW_DIR", "the page shows no images", "previews")
    remedy = "Images are assessed without previews. Free some space, or set another folder (PREREAD_PREVIEW_DIR)."
    return _space("previews", folder, settings.min_free_bytes, remedy)


def _bundles(settings: Settings) -> CheckResult:
    folder = added_bundle_folder(settings)
    if folder is None:
        return _unnamed("added bundles", "PREREAD_BUNDLE_DIR", "no bundle can be added", "bundles")
    return CheckResult("added bundles", True, f"are in {folder}")


def _purged(settings: Settings) -> CheckResult:
    engine = open_engine(settings.database_url)
    journal = purge_journal.purge_journal_path(settings.forgotten_file, sqlite_path(engine))
    engine.dispose()
    if journal is None:
        why = f"purge is refused, since {purge_journal.WHY}"
        return _unnamed("purged files", "PREREAD_FORGOTTEN_FILE", why, "forgotten")
    if hindrance := purge_journal.find_write_obstacle(journal):
        remedy = "Purge is refused. Give the service's user write permission, or set another file."
        return CheckResult("purged files", True, hindrance, remedy, warning=True)
    return CheckResult("purged files", True, f"are recorded as keyed hashes in {journal}")


def _audit_key(settings: Settings, *, there: bool) -> CheckResult:
    """Check the audit trail's key.

    Args:
        settings: name its file.
        there: the database is available: check that its entries were written with the key.
    """
    what = "audit trail's key"
    engine = open_engine(settings.database_url, settings.audit_key_file)
    try:
        path = audit_key.keyring_of(engine).path
        if path is None:
            return _unnamed(
                what, "PREREAD_AUDIT_KEY_FILE", "anybody with write access to it can forge the audit trail", "audit-key"
            )
        fault = read(engine, audit_key.keyring_of(engine).fault) if there else None
    finally:
        engine.dispose()
    if fault is not None:
        remedy = "Restore it. If it is lost: run `preread audit verify`, then `preread audit rekey`."
        return CheckResult(what, True, fault, remedy, warning=True)
    return CheckResult(what, True, f"{'is in' if path.exists() else 'will be created in'} {path}")


def _rights(config: Path | None, settings: Settings) -> CheckResult:
    """Check that other users have no access to patient data and secrets."""
    engine = open_engine(settings.database_url, settings.audit_key_file)
    engine.dispose()
    database = sqlite_path(engine)
    config = config or Path(os.environ.get("PREREAD_CONFIG") or "preread.toml")
    beside = () if database is None else tuple(Path(f"{database}{ending}") for ending in ("-wal", "-shm"))
    private = (database, *beside, previews.locate_preview_folder(settings.preview_dir, database), settings.web_tls_key)
    keys = (audit_key.keyring_of(engine).path, purge_journal.purge_journal_path(settings.forgotten_file, database))
    open_to = [f"{path} ({mode:o})" for path in private if path and (mode := _mode(path)) & 0o007]
    open_to += [f"{path} ({mode:o})" for path in keys if path and (mode := _mode(path)) & 0o077]
    if _holds_password(settings) and (mode := _mode(config)) & 0o007:
        open_to.append(f"{config}, which contains a password ({mode:o})")
    if open_to:
        remedy = "Remove the permissions of others: `chmod o-rwx`, for keys `chmod 600`."
        return CheckResult("rights", True, f"other users can read or change {', '.join(open_to)}", remedy, warning=True)
    return CheckResult("rights", True, "no other user can read or change the database, previews, keys and passwords")


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return 0  # a missing file is open to nobody


def _holds_password(settings: Settings) -> bool:
    return any(
        ":" in url.partition("://")[2].rpartition("@")[0]
        for url in (settings.database_url, settings.alarm_mail_server or "", settings.alarm_webhook or "")
    )


def _unnamed(what: str, setting: str, why: str, name: str) -> CheckResult:
    """Return the warning that a path must be set with Postgres."""
    found = f"with Postgres {setting} must be set: {why}"
    return CheckResult(
        what, True, found, f"Set it to a path on this machine, such as /var/lib/preread/{name}.", warning=True
    )


def _space(what: str, folder: Path, min_free_bytes: int, remedy: str) -> CheckResult:
    """Check free space and write permission of a folder.

    Args:
        what: name of the check.
        folder: the folder; it need not exist.
        min_free_bytes: required free space.
        remedy: what to do if the check fails.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    found = f"{free_bytes / 1e9:.1f} GB free at {place}"
    if free_bytes < min_free_bytes:
        return CheckResult(what, False, f"{found}, less than PREREAD_MIN_FREE_BYTES ({min_free_bytes})", remedy)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        return CheckResult(what, False, f"{place} is not writable, or is not a folder", remedy)
    return CheckResult(what, True, found)


def _share(settings: Settings, spec: RootSpec) -> CheckResult:
    engine = open_engine(settings.database_url)
    engine.dispose()
    refuse_inside_root(spec, sqlite_path(engine), "database", "PREREAD_DATABASE_URL")

    what = f"share {spec.path}"
    problem = _within(SHARE_TIMEOUT_S, partial(_list, spec.path))
    if problem is not None:
        return CheckResult(what, False, problem, "Check the mount, the path and the permissions of the worker's user.")
    reason = network_file_system(spec.path)
    if spec.poll is None:
        mode = f"polled ({reason})" if reason else "watched by events"
    else:
        mode = "polled (as set)" if spec.poll else "watched by events (as set)"
    declared = f"population {spec.population.value}"
    return CheckResult(what, True, f"can be listed; {file_system_type(spec.path)}; {mode}, and scanned; {declared}")


def _list(path: Path) -> str | None:
    try:
        with os.scandir(path) as listing:
            empty = next(listing, None) is None
    except OSError as error:
        return f"cannot be listed: {error.strerror}"
    if empty and (point := missing_mount(path)):
        return f"is empty: /etc/fstab names {point}, and nothing is mounted there"
    return None if os.access(path, os.R_OK | os.X_OK) else "its files cannot be opened: permission denied"


def _within(timeout_s: float, action: Callable[[], str | None]) -> str | None:
    """Run an action with a time limit, since a dead share can block it.

    After the limit its thread goes on in the background.

    Args:
        timeout_s: time limit in seconds.
        action: returns a problem, or ``None``.
    """
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(action()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0] if answer else f"does not respond within {timeout_s:g} s"


def _bundle(settings: Settings) -> CheckResult:
    classifier = self_check.load_checked(str(load_bundle_in_use(settings).path))[0]
    bundle = classifier.bundle
    return CheckResult(
        "bundle", True, f"{bundle.label} is whole and its outputs match on this machine; digest {bundle.digest[:12]}"
    )


def _slots(settings: Settings) -> CheckResult:
    """Start an inference process, which decodes an image of each codec."""
    options = RunOptions(
        slot_memory_bytes=settings.slot_memory_bytes,
        require_confinement=settings.require_confinement,
        vocabulary_file=settings.vocabulary_file,
    )
    bundle = load_bundle_in_use(settings)
    began = time.monotonic()
    pool: InferencePool[None] = InferencePool(build_setup(bundle, options), count=1, deadline_s=options.deadline_s)
    try:
        while not pool.idle:
            pool.poll(1.0)
        took_s = time.monotonic() - began
        lacking = pool.lacking
    finally:
        pool.close()
    found = f"one started in {took_s:.1f} s and decoded an image of each codec, confined by seccomp and Landlock"
    if not lacking:
        return CheckResult("slots", True, found)
    found = f"{found}, but this kernel has no {', no '.join(map(confinement.describe_lacking_part, lacking))}"
    if confinement.ESSENTIAL.isdisjoint(lacking):
        return CheckResult("slots", True, found)
    remedy = "Images are read with less protection: see `degraded` in the runbook. Kernels since 5.13 have both."
    return CheckResult("slots", True, f"degraded: {found}", remedy, warning=True)
