"""A slot reads beneath its root, regular files only, and only what stood still."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from preread.core.errors import EnvironmentFault, FileChanged, FileLocked, FileVanished, ShareDown, TooManyBytes
from preread.ledger.records import Observation
from preread.share import safe_read

LIMIT = 1000


def observed(root: Path, path: bytes) -> Observation:
    status = os.lstat(os.path.join(os.fsencode(root), path))
    return Observation(path, status.st_size, status.st_mtime_ns, status.st_ino)


def read(root: Path, path: bytes) -> safe_read.Contents:
    return safe_read.read_file(os.fsencode(root), observed(root, path), LIMIT)


@pytest.mark.parametrize("path", [b"film", b"a/b/c/film", b"\xff\xfe\n;rm", b"x" * 255])
def test_reads_what_is_there(tmp_path: Path, path: bytes) -> None:
    full = os.path.join(os.fsencode(tmp_path), path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    Path(os.fsdecode(full)).write_bytes(b"bytes")
    contents = read(tmp_path, path)
    assert contents.data == b"bytes"
    safe_read.check_file_unchanged(os.fsencode(tmp_path), path, contents.status)


def test_a_link_put_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345")
    root = tmp_path / "root"
    root.mkdir()
    film = root / "film"
    film.write_bytes(b"12345")
    seen = observed(root, b"film")
    film.unlink()
    film.symlink_to(secret)
    with pytest.raises(FileChanged):
        safe_read.read_file(os.fsencode(root), seen, LIMIT)


def test_a_link_put_between_looking_and_opening_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"12345")
    (tmp_path / "film").write_bytes(b"12345")
    seen = observed(tmp_path, b"film")
    regular = os.lstat(tmp_path / "film")
    # equal size and time: only the flag of the open call refuses it
    os.utime(tmp_path / "secret", ns=(seen.mtime_ns, seen.mtime_ns))
    (tmp_path / "film").unlink()
    (tmp_path / "film").symlink_to("secret")
    assert observed(tmp_path, b"secret").mtime_ns == seen.mtime_ns
    monkeypatch.setattr(os, "stat", lambda *_args, **_options: regular)
    with pytest.raises(FileChanged):
        safe_read.read_file(os.fsencode(tmp_path), seen, LIMIT)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "film").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises(EnvironmentFault):
        read(root, b"folder/film")


@pytest.mark.parametrize("path", [b"../film", b"a/../../film", b"/etc/passwd", b"a//b", b"."])
def test_no_path_leads_outside(tmp_path: Path, path: bytes) -> None:
    (tmp_path / "film").write_bytes(b"1")
    (tmp_path / "root" / "a").mkdir(parents=True)
    with pytest.raises(FileVanished):
        safe_read.read_file(os.fsencode(tmp_path / "root"), Observation(path, 1, 1), LIMIT)


def test_what_is_no_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path in (b"pipe", b"socket"):
            with pytest.raises(FileChanged):
                read(tmp_path, path)


def test_a_device_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open
    opened: list[object] = []

    def note(path: object, *arguments: Any, **options: Any) -> int:
        opened.append(path)
        return really_open(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", note)
    with pytest.raises(FileChanged):
        read(Path("/dev"), b"null")
    assert opened == [b"/dev"]


def test_a_pipe_that_takes_the_files_place_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film").write_bytes(b"1")
    seen, regular = observed(tmp_path, b"film"), os.lstat(tmp_path / "film")
    (tmp_path / "film").unlink()
    os.mkfifo(tmp_path / "film")
    monkeypatch.setattr(os, "stat", lambda *_args, **_options: regular)
    with pytest.raises(FileChanged):
        safe_read.read_file(os.fsencode(tmp_path), seen, LIMIT)


def test_another_version_is_not_read(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"12345")
    seen = observed(tmp_path, b"film")
    os.utime(film, ns=(1, 1))
    with pytest.raises(FileChanged):
        safe_read.read_file(os.fsencode(tmp_path), seen, LIMIT)


def test_a_change_while_reading_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"12345")
    seen = observed(tmp_path, b"film")
    really_read = os.read

    def read_and_append(descriptor: int, count: int) -> bytes:
        data = really_read(descriptor, count)
        with film.open("ab") as stream:
            stream.write(b"more")
        return data

    monkeypatch.setattr(os, "read", read_and_append)
    with pytest.raises(FileChanged):
        safe_read.read_file(os.fsencode(tmp_path), seen, LIMIT)


def test_a_change_after_reading_shows(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"12345")
    contents = read(tmp_path, b"film")
    other = tmp_path / "other"
    other.write_bytes(b"12345")
    os.utime(other, ns=(contents.status.st_atime_ns, contents.status.st_mtime_ns))
    other.rename(film)
    with pytest.raises(FileChanged):
        safe_read.check_file_unchanged(os.fsencode(tmp_path), b"film", contents.status)
    film.unlink()
    with pytest.raises(FileVanished):
        safe_read.check_file_unchanged(os.fsencode(tmp_path), b"film", contents.status)


def test_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "film").open("wb") as stream:
        stream.truncate(LIMIT + 1)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(TooManyBytes):
        read(tmp_path, b"film")


def test_no_root_is_a_share_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(ShareDown):
        safe_read.read_file(os.fsencode(tmp_path / "away"), Observation(b"film", 1, 1), LIMIT)


@pytest.mark.parametrize("call", ["open", "read", "fstat", "stat"])
@pytest.mark.parametrize(
    "number,kind",
    [
        (errno.EACCES, FileLocked),
        (errno.EPERM, FileLocked),
        (errno.EBUSY, FileLocked),
        (errno.ETXTBSY, FileLocked),
        (errno.EAGAIN, FileLocked),
        (errno.ENOENT, FileVanished),
        (errno.ELOOP, FileChanged),
        (errno.ESTALE, EnvironmentFault),
        (errno.EIO, EnvironmentFault),
        (errno.ETIMEDOUT, EnvironmentFault),
        (errno.EHOSTDOWN, EnvironmentFault),
        (errno.ENOTCONN, EnvironmentFault),
    ],
)
def test_the_systems_answers_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[EnvironmentFault]
) -> None:
    (tmp_path / "film").write_bytes(b"12345")
    seen = observed(tmp_path, b"film")
    descriptors = len(os.listdir("/proc/self/fd"))
    really = getattr(os, call)

    def fail(*arguments: Any, **options: Any) -> Any:
        if call == "open" and arguments[0] == os.fsencode(tmp_path):
            return really(*arguments, **options)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(EnvironmentFault) as caught:
        safe_read.read_file(os.fsencode(tmp_path), seen, LIMIT)
    assert type(caught.value) is kind
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == descriptors
