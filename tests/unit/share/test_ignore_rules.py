"""Which names and kinds of entries are left out, and by which rule."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from preread.share import ignore_rules as ignoring


@pytest.mark.parametrize(
    "name,rule",
    [
        (b".hidden.dcm", ignoring.HIDDEN),
        (b"._film.dcm", ignoring.HIDDEN),
        (b".nfs0000001", ignoring.HIDDEN),
        (b".smbdeleteAAA", ignoring.HIDDEN),
        (b"film.dcm.part", ignoring.TEMPORARY),
        (b"FILM.DCM.TMP", ignoring.TEMPORARY),
        (b"film.filepart", ignoring.TEMPORARY),
        (b"film.jpg.crdownload", ignoring.TEMPORARY),
        (b"~$report.doc", ignoring.TEMPORARY),
        (b"Thumbs.db", ignoring.LITTER),
        (b"desktop.ini", ignoring.LITTER),
        (b"@eaDir", ignoring.LITTER),
        (b"__MACOSX", ignoring.LITTER),
        (b"film\xff\n.tmp", ignoring.TEMPORARY),
        (b"film.dcm", None),
        (b"DICOMDIR", None),
        (b"IM0001", None),
        (b"part", None),
        (b"film.part.dcm", None),
        (b"\xff\xfe", None),
        (b"a\n.tmp\nb", None),
    ],
)
def test_names(name: bytes, rule: str | None) -> None:
    assert ignoring.name_rule(name) == rule


def test_a_folder_above_counts() -> None:
    assert ignoring.path_rule(b"2026/.trash/film.dcm") == ignoring.HIDDEN
    assert ignoring.path_rule(b"2026/03/film.dcm") is None


def test_kinds_of_entries(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").write_bytes(b"")
    rules = {path.name: ignoring.mode_rule(os.lstat(path).st_mode) for path in tmp_path.iterdir()}
    assert rules == {"pipe": ignoring.NOT_REGULAR, "link": ignoring.SYMBOLIC_LINK, "file": None}
    assert ignoring.mode_rule(stat.S_IFSOCK) == ignoring.NOT_REGULAR
    assert ignoring.mode_rule(stat.S_IFCHR) == ignoring.NOT_REGULAR


def test_every_rule_has_its_sentence() -> None:
    rules = {ignoring.HIDDEN, ignoring.TEMPORARY, ignoring.LITTER, ignoring.SYMBOLIC_LINK, ignoring.NOT_REGULAR}
    assert set(ignoring.RULES) == rules
