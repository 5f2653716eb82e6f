"""Rules for ignored directory entries: temporary, hidden, not regular.

An ignored file is counted and named, never lost: when it is renamed to a name that no rule covers, it is a new path.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from typing import Final

HIDDEN: Final = "hidden_name"
TEMPORARY: Final = "temporary_name"
LITTER: Final = "litter_name"
SYMBOLIC_LINK: Final = "symbolic_link"
NOT_REGULAR: Final = "not_regular"

RULES: dict[str, str] = {
    HIDDEN: "its name, or a folder's above it, begins with a dot",
    TEMPORARY: "its name is that of a file still being written; renamed to its final name it is read",
    LITTER: "its name is one that file servers and desktops use for their own files",
    SYMBOLIC_LINK: "it is a symbolic link; links are not followed, so that nothing outside the folder is read",
    NOT_REGULAR: "it is a pipe, socket or device, not a file",
}

# .nfs* and .smbdelete* (files deleted while open), .DS_Store, ._*, .stversions and .Trashes are hidden names as well.
_TEMPORARY = (
    "*.part",
    "*.partial",
    "*.tmp",
    "*.temp",
    "*.filepart",
    "*.crdownload",
    "*.download",
    "*.swp",
    "~$*",
    "*~",
)
_LITTER = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx",
    "$recycle.bin", "system volume information", "lost+found",
)  # fmt: skip


def _pattern(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile("|".join(fnmatch.translate(name) for name in names).encode("ascii"), re.IGNORECASE)


_TEMPORARY_PATTERN = _pattern(_TEMPORARY)
_LITTER_PATTERN = _pattern(_LITTER)


def match_name_rule(name: bytes) -> str | None:
    """Return the rule by which a file name is ignored, or ``None``.

    Args:
        name: one component of a path.
    """
    if name.startswith(b"."):
        return HIDDEN
    if _LITTER_PATTERN.match(name):
        return LITTER
    return TEMPORARY if _TEMPORARY_PATTERN.match(name) else None


def match_path_rule(path: bytes) -> str | None:
    """Return the rule by which a file's path is ignored, or ``None``.

    Args:
        path: relative to its root.
    """
    return next((rule for name in path.split(b"/") if (rule := match_name_rule(name)) is not None), None)


def match_mode_rule(mode: int) -> str | None:
    """Return the rule by which a file type is ignored, or ``None``.

    Args:
        mode: ``st_mode``; a regular file has no rule.
    """
    if stat.S_ISREG(mode):
        return None
    return SYMBOLIC_LINK if stat.S_ISLNK(mode) else NOT_REGULAR
