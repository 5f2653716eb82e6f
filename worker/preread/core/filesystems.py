"""Which kind of file system a path lies on, from the kernel's mount table.

Changes that another host makes on a network file system raise no inotify event, and SQLite's locks do not hold there:
the inbox polls such roots, and the store refuses such a database. ``/proc/self/mountinfo`` is described in proc(5).
Nothing here touches the path's own file system except to resolve symbolic links.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
FSTAB = Path("/etc/fstab")
UNKNOWN = "unknown"

# Served by another host (or by the host of a virtual machine), so that writes can happen behind this kernel's back.
NETWORK_TYPES = frozenset(
    """9p acfs afs afpfs autofs beegfs ceph cifs coda cvfs davfs fhgfs gfs gfs2 glusterfs gpfs ibrix lustre mfs ncpfs
    nfs nfs3 nfs4 ocfs2 orangefs panfs prl_fs pvfs2 shfs smb smb2 smb3 smbfs sshfs vboxsf virtiofs vmhgfs wekafs
    """.split()  # noqa: SIM905  one name a line would be a page
)
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes:
        mount_point: absolute path, in bytes as the kernel has it.
        fs_type: e.g. ``ext4``, ``cifs``, ``fuse.sshfs``.
    """

    mount_point: bytes
    fs_type: str


def parse_mounts(table: bytes) -> list[Mount]:
    """Read the text of a mountinfo file; lines that do not have its form are left out."""
    mounts = []
    for line in table.splitlines():
        before, separator, after = line.partition(b" - ")
        fields = before.split(b" ")
        if separator and len(fields) >= 6 and after:
            mounts.append(Mount(_unescaped(fields[4]), os.fsdecode(after.split(b" ")[0])))
    return mounts


def read_mounts() -> list[Mount]:
    """Return the mounts of this process, in mount order; empty where the kernel has no such table (not Linux)."""
    try:
        return parse_mounts(MOUNTINFO.read_bytes())
    except OSError:
        return []


def file_system_type(path: str | bytes | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> str:
    """Return the type of the file system that ``path`` lies (or would be created) on, ``unknown`` if no mount tells.

    Args:
        path: need not exist; symbolic links in it are followed.
        mounts: the mount table, read anew when ``None``.
    """
    resolved = os.path.realpath(os.fsencode(path))
    best = Mount(b"", UNKNOWN)
    for mount in read_mounts() if mounts is None else mounts:
        # of two mounts on one point the later one covers the earlier: hence >=
        if _beneath(resolved, mount.mount_point) and len(mount.mount_point) >= len(best.mount_point):
            best = mount
    return best.fs_type


def is_network(fs_type: str) -> bool:
    """Tell whether files of this type can change without this kernel knowing.

    FUSE counts as network whatever its subtype (sshfs, rclone, s3fs...); ``fuseblk`` (NTFS on a local disk) does not.
    An unknown type counts as local: the periodic scan finds everything anyway.
    """
    return fs_type in NETWORK_TYPES or fs_type == "fuse" or fs_type.startswith("fuse.")


def network_file_system(root: str | bytes | os.PathLike[str], mounts: Iterable[Mount] | None = None) -> str | None:
    """Return the network file system type found at ``root`` or mounted anywhere below it, ``None`` if all is local."""
    table = read_mounts() if mounts is None else list(mounts)
    own = file_system_type(root, table)
    if is_network(own):
        return own
    resolved = os.path.realpath(os.fsencode(root))
    for mount in table:
        if is_network(mount.fs_type) and mount.mount_point != resolved and _beneath(mount.mount_point, resolved):
            return f"{mount.fs_type} mounted below it"
    return None


def missing_mount(root: str | bytes | os.PathLike[str]) -> str | None:
    """Return the mount point at or above ``root`` which fstab(5) names and where nothing is mounted; ``None`` if none.

    With ``nofail`` a host starts without its share, and an empty folder lies there in its place.
    """
    resolved = os.path.realpath(os.fsencode(root))
    try:
        lines = FSTAB.read_bytes().splitlines()
    except OSError:
        return None
    there = {mount.mount_point for mount in read_mounts()}
    for line in lines:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith(b"#") or not fields[1].startswith(b"/"):
            continue
        point = os.path.realpath(_unescaped(fields[1]))
        if _beneath(resolved, point) and point not in there:
            return os.fsdecode(point)
    return None


def _unescaped(field: bytes) -> bytes:
    """Undo how mount tables write blanks: as octal numbers."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _beneath(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
