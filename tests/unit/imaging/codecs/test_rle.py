"""RLE: the decoder is handed the segments that the header means, and nothing else."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import BrokenHeader, TruncatedPixels
from preread.imaging.codecs.codestreams import cut_rle_segment, join_frame_fragments, split_rle_frame
from preread.imaging.codecs.decoders import RLE
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.support.decoders import items, outcome, stored

FILM = phantoms.draw_chest(3, rows=40, columns=56).astype(np.uint16) * 257
FRAME = phantoms.compress_frame(FILM, Encoding("rle", bits=16))
NEEDED = [cut_rle_segment(segment, FILM.size) for segment in split_rle_frame(FRAME, 2)]


def test_the_segments_are_handed_over_whole() -> None:
    handed, pixels, _ = outcome(lambda: stored(FRAME, RLE, FILM))
    assert handed == NEEDED
    assert pixels is not None
    assert np.array_equal(pixels, FILM)


@given(count=st.integers(0, 0xFFFFFFFF))
def test_another_number_of_segments_reaches_no_decoder(count: int) -> None:
    if count == 2:
        return
    handed, _, code = outcome(lambda: stored(struct.pack("<I", count) + FRAME[4:], RLE, FILM))
    assert (handed, code) == ([], "broken_header")


@given(first=st.integers(0, 0xFFFFFFFF), second=st.integers(0, 0xFFFFFFFF))
def test_offsets_are_checked(first: int, second: int) -> None:
    changed = FRAME[:4] + struct.pack("<2I", first, second) + FRAME[12:]
    handed, _, code = outcome(lambda: stored(changed, RLE, FILM))
    if not 64 <= first <= second <= len(FRAME):
        assert (handed, code) == ([], "truncated")
    assert all(segment in FRAME or len(imagecodecs.packbits_decode(segment)) == FILM.size for segment in handed)


@given(offsets=st.lists(st.integers(0, 0xFFFFFFFF), min_size=13, max_size=13))
def test_offsets_of_segments_that_are_not_there_count_for_nothing(offsets: list[int]) -> None:
    changed = FRAME[:12] + struct.pack("<13I", *offsets) + FRAME[64:]
    handed, _, _ = outcome(lambda: stored(changed, RLE, FILM))
    assert handed == NEEDED


def test_fragments_are_counted() -> None:
    with pytest.raises(BrokenHeader, match="fragments"):
        join_frame_fragments(items(*[b"ab"] * 100_002), 0)
    with pytest.raises(BrokenHeader, match="fragments"):
        join_frame_fragments(items(*[b""] * 100_002), 0)
    with pytest.raises(TruncatedPixels):
        join_frame_fragments(items(*[b""] * 50_000), 0)


# --------------------------------------------------------------------------- padding

RUNS = st.one_of(
    st.binary(min_size=1, max_size=128).map(lambda literal: bytes((len(literal) - 1,)) + literal),
    st.tuples(st.integers(2, 128), st.integers(0, 255)).map(lambda run: bytes((257 - run[0], run[1]))),
    st.integers(1, 5).map(lambda count: b"\x80" * count),
)


def unpacked(runs: list[bytes]) -> bytes:
    """Return the bytes that runs stand for (PS3.5 G.3.2)."""
    return b"".join(b"" if run[0] == 0x80 else run[1:] if run[0] < 0x80 else run[1:] * (257 - run[0]) for run in runs)


@given(runs=st.lists(RUNS, min_size=1, max_size=8), padding=st.binary(max_size=300), share=st.floats(0, 1))
def test_bytes_after_the_last_pixel_do_not_count(runs: list[bytes], padding: bytes, share: float) -> None:
    """Whatever they are, and also if the last run goes beyond the last pixel."""
    whole = unpacked(runs)
    count = max(1, round(share * len(whole)))
    if not whole:
        return
    needed = cut_rle_segment(b"".join(runs) + padding, count)
    assert bytes(imagecodecs.packbits_decode(needed, out=count)) == whole[:count]


@given(runs=st.lists(RUNS, max_size=8), missing=st.integers(1, 500))
def test_a_segment_with_too_few_pixels_stays_so(runs: list[bytes], missing: int) -> None:
    segment = b"".join(runs)
    assert cut_rle_segment(segment, len(unpacked(runs)) + missing) == segment


@given(segment=st.binary(max_size=300), count=st.integers(1, 1000))
def test_any_segment_ends_well(segment: bytes, count: int) -> None:
    assert len(cut_rle_segment(segment, count)) <= len(segment)


@pytest.mark.parametrize(
    "padding",
    [b"", b"\0", b" ", b"\0" * 8, b"\xff" * 7, b"\x80", bytes(range(256)) * 40],
    ids=lambda padding: f"{len(padding)}-{padding[:1].hex()}",
)
def test_padded_segments_are_decoded(padding: bytes) -> None:
    segments = [segment + padding for segment in NEEDED]
    offsets = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    header = np.zeros(16, "<u4")
    header[:3] = 2, *offsets
    pixels = stored(header.tobytes() + b"".join(segments), RLE, FILM)
    assert np.array_equal(pixels, FILM)
