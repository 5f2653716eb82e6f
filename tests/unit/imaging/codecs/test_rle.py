"""RLE: the decoder is handed the segments that the header means, and nothing else."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import BrokenHeader, TruncatedPixels
from preread.imaging.codecs.codestreams import join_frame_fragments, split_rle_frame
from preread.imaging.codecs.decoders import RLE
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.support.decoders import items, outcome, stored

FILM = phantoms.draw_chest(3, rows=40, columns=56).astype(np.uint16) * 257
FRAME = phantoms.compress(FILM, Encoding("rle", bits=16))
SEGMENTS = split_rle_frame(FRAME, 2)


def test_the_segments_are_handed_over_whole() -> None:
    handed, pixels, _ = outcome(lambda: stored(FRAME, RLE, FILM))
    assert handed == SEGMENTS
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
    assert all(segment in FRAME for segment in handed)


@given(offsets=st.lists(st.integers(0, 0xFFFFFFFF), min_size=13, max_size=13))
def test_offsets_of_segments_that_are_not_there_count_for_nothing(offsets: list[int]) -> None:
    changed = FRAME[:12] + struct.pack("<13I", *offsets) + FRAME[64:]
    handed, _, _ = outcome(lambda: stored(changed, RLE, FILM))
    assert handed == SEGMENTS


def test_fragments_are_counted() -> None:
    with pytest.raises(BrokenHeader, match="fragments"):
        join_frame_fragments(items(*[b"ab"] * 100_002), 0)
    with pytest.raises(BrokenHeader, match="fragments"):
        join_frame_fragments(items(*[b""] * 100_002), 0)
    with pytest.raises(TruncatedPixels):
        join_frame_fragments(items(*[b""] * 50_000), 0)
