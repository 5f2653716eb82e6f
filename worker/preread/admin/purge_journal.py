"""Journal file of purged versions, by keyed hashes, for restored backups.

The first line holds the purge key of its database; each further line stands for one version of one file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from preread.core.errors import SettingsError
from preread.core.types import JSONObject

ENDING = "-forgotten"
WHY = "a restored backup would bring back what was purged"


def purge_journal_path(configured: Path | None, database: Path | None) -> Path | None:
    """Return the path of the journal of purges.

    Args:
        configured: path from the settings, or ``None``.
        database: SQLite file, or ``None``.

    Returns:
        The configured path, else a path beside the SQLite file; ``None`` for neither.
    """
    if configured is not None:
        return Path(os.path.abspath(configured))
    return None if database is None else Path(f"{os.path.abspath(database)}{ENDING}")


def find_write_obstacle(journal: Path | None) -> str | None:
    """Return why the journal of purges cannot be written; ``None`` if it can."""
    if journal is None:
        return "PREREAD_FORGOTTEN_FILE is not set"
    if not journal.parent.is_dir():
        return f"there is no folder {journal.parent} (PREREAD_FORGOTTEN_FILE)"
    if os.path.lexists(journal):
        usable = journal.is_file() and not journal.is_symlink() and os.access(journal, os.R_OK | os.W_OK)
    else:
        usable = os.access(journal.parent, os.W_OK | os.X_OK)
    return None if usable else f"{journal} is not writable or not a regular file (PREREAD_FORGOTTEN_FILE)"


def read_journal_key(journal: Path) -> str | None:
    """Return the key of a journal of purges in hex; ``None`` if it has none.

    ``None`` means that the journal is empty or missing.

    Raises:
        SettingsError: it cannot be read.
    """
    if not journal.exists():
        return None
    return next((str(entry["key"]) for entry in read_journal(journal) if "key" in entry), None)


def find_journals(folders: Iterable[Path]) -> list[Path]:
    """Return the journals of purges in these folders, by their names."""
    paths = (path for folder in dict.fromkeys(folders) for path in folder.glob(f"*{ENDING}"))
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def read_journal(journal: Path) -> list[JSONObject]:
    """Return the entries of a journal of purges, but no incomplete line.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        lines = journal.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"the purge journal {journal} cannot be read: {error}") from error
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # incomplete after a power cut: its versions were not purged yet
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def append_to_journal(journal: Path, entries: Sequence[JSONObject]) -> None:
    """Append entries durably to a journal of purges.

    Raises:
        SettingsError: it cannot be written.
    """
    written = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    try:
        descriptor = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+b", buffering=0) as stream:
            size = os.fstat(descriptor).st_size
            unfinished = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            stream.write(b"\n" * unfinished + written)
            os.fsync(descriptor)
    except OSError as error:
        raise SettingsError(f"{journal} cannot be written: {error.strerror}") from error


def merge_journals(journal: Path, others: Iterable[Path]) -> None:
    """Append missing entries of other journals of purges to a journal.

    Raises:
        SettingsError: one of them cannot be read or written.
    """
    known = {json.dumps(entry) for entry in (read_journal(journal) if journal.exists() else [])}
    for other in others:
        new = [entry for entry in read_journal(other) if json.dumps(entry) not in known] if other != journal else []
        if new:
            append_to_journal(journal, new)
            known |= {json.dumps(entry) for entry in new}
