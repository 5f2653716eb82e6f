"""Previews: whole or not at all, small, without a tag; and what becomes of them never touches an outcome."""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from preread.core.types import Outcome, Population
from preread.imaging import previews
from preread.imaging.preview_png import encode_preview
from preread.model.bundles import Bundle
from preread.runner.child import protocol
from preread.runner.child.protocol import Job, Report, Setup
from preread.runner.pool import Done, InferencePool, Read
from preread_training.data import phantoms
from tests.support.paths import STUB_SLOT

WITHIN_S = 120.0
SHA = "ab" * 32
FILM = phantoms.draw_chest(3, rows=96, columns=80)


def opened(content: bytes | None) -> Any:
    assert content is not None
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_small_film_is_kept_to_the_pixel(tmp_path: Path) -> None:
    assert previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    assert np.array_equal(opened(previews.load_preview(tmp_path, SHA)), FILM)
    assert previews.has_preview(tmp_path, SHA)
    assert os.listdir(tmp_path / "ab") == [f"{SHA}.png"]
    assert stat.S_IMODE(os.stat(previews.locate_preview(tmp_path, SHA)).st_mode) == 0o600


@given(pixels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_what_is_drawn_is_the_film_and_other_readers_agree(pixels: Any) -> None:
    content = encode_preview(pixels)
    assert np.array_equal(opened(content), pixels)
    assert np.array_equal(imagecodecs.png_decode(content), pixels)


@pytest.mark.parametrize("film, shown", [((3000, 1500), (1000, 500)), ((1330, 665), (1024, 512))])
def test_a_large_film_is_shrunk_in_its_proportions(
    tmp_path: Path, film: tuple[int, int], shown: tuple[int, int]
) -> None:
    ramp = np.repeat(np.linspace(0, 255, film[0]).astype(np.uint8)[:, np.newaxis], film[1], axis=1)
    assert previews.store_preview(tmp_path, SHA, encode_preview(ramp), 0)
    found = opened(previews.load_preview(tmp_path, SHA))
    assert found.shape == shown
    assert np.abs(found[:, 0] - np.linspace(0, 255, shown[0])).max() <= 2


@pytest.mark.parametrize("left", [0, 3, -1])
def test_a_preview_whose_end_a_power_loss_took_counts_as_none_and_is_written_again(tmp_path: Path, left: int) -> None:
    assert previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    place = previews.locate_preview(tmp_path, SHA)
    place.write_bytes(place.read_bytes()[:left])
    assert not previews.has_preview(tmp_path, SHA)
    assert previews.load_preview(tmp_path, SHA) is None
    assert previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    assert np.array_equal(opened(previews.load_preview(tmp_path, SHA)), FILM)


def test_a_preview_is_dropped_where_the_disk_would_fall_below_its_floor(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=1000))
    assert not previews.store_preview(tmp_path, SHA, encode_preview(FILM), 10_000)
    assert previews.load_preview(tmp_path, SHA) is None
    assert previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0) == (len(encode_preview(FILM)) <= 10_000)


@pytest.mark.parametrize("name", ["makedirs", "statvfs", "open"])
def test_whatever_the_disk_says_no_half_preview_is_ever_seen(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        assert not previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    assert not previews.has_preview(tmp_path, SHA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    assert os.listdir(tmp_path / "ab") == [f"{SHA}.png"]


def test_a_disk_that_fills_while_a_preview_is_written_keeps_nothing_of_it(tmp_path: Path) -> None:
    assert len(encode_preview(FILM)) > 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        kept = previews.store_preview(tmp_path, SHA, encode_preview(FILM), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not kept
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_previews_lie_beside_the_database_unless_a_folder_is_named(tmp_path: Path) -> None:
    assert previews.locate_preview_folder(None, tmp_path / "preread.db") == tmp_path / "preread.db-previews"
    assert previews.locate_preview_folder(tmp_path / "pictures", tmp_path / "preread.db") == tmp_path / "pictures"
    assert previews.locate_preview_folder(None, None) is None
    assert previews.load_preview(None, SHA) is None


# --------------------------------------------------------------------------- in a slot


class Slot:
    """One stub slot that keeps previews."""

    def __init__(self, folder: Path, bundle: Bundle, preview_dir: Path) -> None:
        self.folder = folder / "inbox"
        self.folder.mkdir()
        setup = Setup(
            bundle=protocol.path_to_text(os.fsencode(bundle.path)),
            digest=bundle.digest,
            memory_bytes=2**31,
            max_file_bytes=2**20,
            max_pixels=64_000_000,
            parent_pid=os.getpid(),
        )
        command = (sys.executable, "-P", str(STUB_SLOT), str(folder / "inferences"))
        self.pool: InferencePool[str] = InferencePool(
            setup, count=1, deadline_s=60.0, command=command, place=previews.PreviewStore(preview_dir)
        )

    def read(
        self, content: bytes, *, preview: bool = True, known: bool = False, population: str = "children-1-5y"
    ) -> Report:
        (self.folder / "film").write_bytes(content)
        status = os.stat(self.folder / "film")
        give_up_at = time.monotonic() + WITHIN_S
        while not self.pool.idle:
            assert time.monotonic() < give_up_at
            assert self.pool.poll(1.0) == []
        job = Job(
            protocol.path_to_text(os.fsencode(self.folder)),
            "film",
            status.st_size,
            status.st_mtime_ns,
            Population(population),
            None,
            preview,
        )
        self.pool.submit("film", job)
        while time.monotonic() < give_up_at:
            for event in self.pool.poll(1.0):
                if isinstance(event, Read):
                    self.pool.answer("film", known=known)
                else:
                    assert isinstance(event, Done)
                    return event.report
        raise AssertionError("the slot did not answer in time")


@pytest.fixture
def slot(tmp_path: Path, stub_bundle: Bundle) -> Iterator[Callable[[Path], Slot]]:
    made = []

    def make(preview_dir: Path) -> Slot:
        made.append(Slot(tmp_path, stub_bundle, preview_dir))
        return made[-1]

    yield make
    for one in made:
        one.pool.close()


def test_a_slot_keeps_what_it_saw_of_assessed_and_refused_films(slot: Callable[[Path], Slot], tmp_path: Path) -> None:
    folder = tmp_path / "previews"
    reader = slot(folder)
    assessed = reader.read(phantoms.to_png(FILM))
    assert (assessed.outcome, assessed.preview_dropped) == (Outcome.ASSESSED, False)
    assert np.array_equal(opened(previews.load_preview(folder, assessed.sha256)), FILM)
    other = phantoms.draw_chest(4, rows=96, columns=80)
    refused = reader.read(phantoms.to_png(other), population="undeclared")
    assert (refused.outcome, refused.code) == (Outcome.REFUSED, "age_unknown")
    assert np.array_equal(opened(previews.load_preview(folder, refused.sha256)), other)


def test_a_known_film_whose_preview_went_away_gets_it_again(slot: Callable[[Path], Slot], tmp_path: Path) -> None:
    report = slot(tmp_path / "previews").read(phantoms.to_png(FILM), known=True)
    assert report.outcome is Outcome.ASSESSED
    assert report.content is None
    assert previews.has_preview(tmp_path / "previews", str(report.sha256))


def test_a_later_attempt_and_an_unreadable_film_leave_no_preview(slot: Callable[[Path], Slot], tmp_path: Path) -> None:
    reader = slot(tmp_path / "previews")
    assert reader.read(phantoms.to_png(FILM), preview=False).outcome is Outcome.ASSESSED
    report = reader.read(b"no film")
    assert (report.outcome, report.preview_dropped) == (Outcome.UNREADABLE, False)
    assert not (tmp_path / "previews").exists()


def test_no_room_for_previews_costs_no_assessment(slot: Callable[[Path], Slot], tmp_path: Path) -> None:
    (tmp_path / "previews").write_bytes(b"a file where the folder should be")
    report = slot(tmp_path / "previews").read(phantoms.to_png(FILM))
    assert (report.outcome, report.preview_dropped) == (Outcome.ASSESSED, True)
    assert report.content is not None
