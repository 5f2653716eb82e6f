"""The mount table decides whether a root is polled and whether a SQLite file may lie there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preread.core import filesystems

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:50 / /srv/films rw,relatime - cifs //modality/films rw,vers=3.1.1
41 27 0:51 / /srv/local rw,relatime - xfs /dev/vdb rw
42 41 0:52 / /srv/local/archive rw - nfs4 server:/archive rw
43 27 0:53 / /srv/with\040space\011tab rw - fuse.sshfs x rw
44 27 0:54 / /srv/disk rw - fuseblk /dev/sdc1 rw
45 27 0:55 / /srv/twice rw - nfs a rw
46 27 0:56 / /srv/twice rw - ext4 /dev/vdc rw
47 27 0:57 / /srv/films2 rw - tmpfs tmpfs rw
a line of another form
"""
MOUNTS = filesystems.parse_mounts(TABLE)


def test_lines_of_another_form_are_left_out() -> None:
    assert len(MOUNTS) == 10


@pytest.mark.parametrize(
    "path,fs_type",
    [
        ("/srv/films", "cifs"),
        ("/srv/films/2026/a.dcm", "cifs"),
        ("/srv/films2/a.dcm", "tmpfs"),
        ("/srv/films3", "ext4"),
        ("/srv/local/archive/x", "nfs4"),
        ("/srv/local/x", "xfs"),
        ("/srv/with space\ttab/x", "fuse.sshfs"),
        ("/srv/twice/x", "ext4"),
        ("/", "ext4"),
    ],
)
def test_the_deepest_and_latest_mount_decides(path: str, fs_type: str) -> None:
    assert filesystems.file_system_type(path, MOUNTS) == fs_type
    assert filesystems.file_system_type(os.fsencode(path), MOUNTS) == fs_type


def test_no_table_is_unknown_and_counts_as_local() -> None:
    assert filesystems.file_system_type("/srv", []) == filesystems.UNKNOWN
    assert not filesystems.is_network(filesystems.UNKNOWN)


@pytest.mark.parametrize("fs_type", ["cifs", "smb3", "nfs", "nfs4", "9p", "fuse", "fuse.rclone", "virtiofs", "ceph"])
def test_network_types(fs_type: str) -> None:
    assert filesystems.is_network(fs_type)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "zfs"])
def test_local_types(fs_type: str) -> None:
    assert not filesystems.is_network(fs_type)


@pytest.mark.parametrize(
    "root,reason",
    [
        ("/srv/films", "cifs"),
        ("/srv/local", "nfs4 mounted below it"),
        ("/srv/local/other", None),
        ("/srv/disk", None),
        ("/srv/local/archive", "nfs4"),
    ],
)
def test_a_network_mount_below_a_root_makes_it_polled(root: str, reason: str | None) -> None:
    assert filesystems.network_file_system(root, MOUNTS) == reason


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/films")
    assert filesystems.file_system_type(tmp_path / "link" / "new.db", MOUNTS) == "cifs"


def test_the_real_table_knows_proc() -> None:
    assert filesystems.file_system_type("/proc/self") == "proc"


def test_a_mount_that_fstab_names_and_the_kernel_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, fstab = tmp_path / "mountinfo", tmp_path / "fstab"
    table.write_bytes(TABLE)
    fstab.write_bytes(
        b"# //old/share /srv/films3 cifs\n/dev/vda / ext4 defaults 0 1\n/dev/vdd none swap sw 0 0\nword\n\n"
        b"//modality/films\t/srv/films cifs ro,_netdev,nofail 0 0\nserver:/x /srv/away nfs4 ro,nofail 0 0\n"
        b"//server/y /srv/with\\040space\\011tab cifs ro 0 0\n//server/y /srv/a\\040room/ cifs ro 0 0\n"
    )
    monkeypatch.setattr(filesystems, "MOUNTINFO", table)
    monkeypatch.setattr(filesystems, "FSTAB", fstab)
    missing = {path: filesystems.missing_mount(path) for path in ("/srv/away", "/srv/away/kids", "/srv/a room/kids")}
    assert missing == {"/srv/away": "/srv/away", "/srv/away/kids": "/srv/away", "/srv/a room/kids": "/srv/a room"}
    for there in ("/srv/films/2026", "/srv/films3", "/srv/awayfarer", "/srv/with space\ttab", "/", "/home"):
        assert filesystems.missing_mount(there) is None, there
    fstab.unlink()
    assert filesystems.missing_mount("/srv/away") is None
