"""The file that remembers what was purged, by keyed hashes alone, for when an older backup is restored.

Its first line holds the key of the database that it belongs to; each further one stands for one version of one file.
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


def path_for(named: Path | None, database: Path | None) -> Path | None:
    """Return where the journal lies: the file that is named, else beside the SQLite file; ``None`` for neither."""
    if named is not None:
        return Path(os.path.abspath(named))
    return None if database is None else Path(f"{os.path.abspath(database)}{ENDING}")


def hindrance(journal: Path | None) -> str | None:
    """Return in words why nothing can be remembered there; ``None`` where it can."""
    if journal is None:
        return "PREREAD_FORGOTTEN_FILE names no file"
    if not journal.parent.is_dir():
        return f"there is no folder {journal.parent} (PREREAD_FORGOTTEN_FILE)"
    if os.path.lexists(journal):
        usable = journal.is_file() and not journal.is_symlink() and os.access(journal, os.R_OK | os.W_OK)
    else:
        usable = os.access(journal.parent, os.W_OK | os.X_OK)
    return None if usable else f"{journal} may not be written, or is no file (PREREAD_FORGOTTEN_FILE)"


def key_of(journal: Path) -> str | None:
    """Return the key of its database in hexadecimal digits; ``None`` while nothing stands in it, or it is not there.

    Raises:
        SettingsError: it cannot be read.
    """
    if not journal.exists():
        return None
    return next((str(entry["key"]) for entry in read(journal) if "key" in entry), None)


def beside(folders: Iterable[Path]) -> list[Path]:
    """Return the files in these folders whose names say that they remember what some SQLite database forgot."""
    found = (path for folder in dict.fromkeys(folders) for path in folder.glob(f"*{ENDING}"))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def read(journal: Path) -> list[JSONObject]:
    """Return its lines; one that a power cut left unfinished is passed over.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        lines = journal.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{journal} cannot be read as what was forgotten: {error}") from error
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a power cut left it unfinished, so that its films were not forgotten yet
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def append(journal: Path, entries: Sequence[JSONObject]) -> None:
    """Add lines that survive a power cut; only the owner reads them.

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


def take_over(journal: Path, others: Iterable[Path]) -> None:
    """Add to a journal what others of the same database hold and it does not.

    Raises:
        SettingsError: one of them cannot be read or written.
    """
    known = {json.dumps(entry) for entry in (read(journal) if journal.exists() else [])}
    for other in others:
        new = [entry for entry in read(other) if json.dumps(entry) not in known] if other != journal else []
        if new:
            append(journal, new)
            known |= {json.dumps(entry) for entry in new}
