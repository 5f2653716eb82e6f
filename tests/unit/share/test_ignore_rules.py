"""Which names and kinds of entries are left out, and by which rule."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from preread.share import ignore_rules


@pytest.mark.parametrize(
    "name,rule",
    [
        (b".hidden.dcm", ignore_rules.HIDDEN),
        (b"._film.dcm", ignore_rules.HIDDEN),
        (b".nfs0000001", ignore_rules.HIDDEN),
        (b".smbdeleteAAA", ignore_rules.HIDDEN),
        (b"film.dcm.part", ignore_rules.TEMPORARY),
        (b"FILM.DCM.TMP", ignore_rules.TEMPORARY),
        (b"film.filepart", ignore_rules.TEMPORARY),
        (b"film.jpg.crdownload", ignore_rules.TEMPORARY),
        (b"~$report.doc", ignore_rules.TEMPORARY),
        (b"Thumbs.db", ignore_rules.LITTER),
        (b"desktop.ini", ignore_rules.LITTER),
        (b"@eaDir", ignore_rules.LITTER),
        (b"__MACOSX", ignore_rules.LITTER),
        (b"film\xff\n.tmp", ignore_rules.TEMPORARY),
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
    assert ignore_rules.match_name_rule(name) == rule


def test_a_folder_above_counts() -> None:
    assert ignore_rules.match_path_rule(b"2026/.trash/film.dcm") == ignore_rules.HIDDEN
    assert ignore_rules.match_path_rule(b"2026/03/film.dcm") is None


def test_kinds_of_entries(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").write_bytes(b"")
    rules = {path.name: ignore_rules.match_mode_rule(os.lstat(path).st_mode) for path in tmp_path.iterdir()}
    assert rules == {"pipe": ignore_rules.NOT_REGULAR, "link": ignore_rules.SYMBOLIC_LINK, "file": None}
    assert ignore_rules.match_mode_rule(stat.S_IFSOCK) == ignore_rules.NOT_REGULAR
    assert ignore_rules.match_mode_rule(stat.S_IFCHR) == ignore_rules.NOT_REGULAR


def test_every_rule_has_its_sentence() -> None:
    rules = {
        ignore_rules.HIDDEN,
        ignore_rules.TEMPORARY,
        ignore_rules.LITTER,
        ignore_rules.SYMBOLIC_LINK,
        ignore_rules.NOT_REGULAR,
    }
    assert set(ignore_rules.RULES) == rules
