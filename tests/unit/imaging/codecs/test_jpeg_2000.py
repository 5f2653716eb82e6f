"""JPEG 2000: the decoder is handed only what a picture needs, and the picture stays as it was."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import openjpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image

from preread.core.errors import DecodeFailed, TruncatedPixels, UnreadableError, UnsupportedPixels
from preread.imaging.codecs import jpeg_2000
from preread_training.data import phantoms
from tests.support.decoders import outcome, recorded, stored

LOSSLESS, HTJ2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"
FILM = phantoms.draw_chest(3, rows=70, columns=90)
FRAME = bytes(encode_array(FILM, use_mct=False, bits_stored=8, photometric_interpretation=2))
SOT, SOD, EOC = b"\xff\x90", b"\xff\x93", b"\xff\xd9"
HEADER = FRAME[: FRAME.index(SOT)]
PACKETS = FRAME[FRAME.index(SOD) + 2 : FRAME.rindex(EOC)]
FIELDS = ("right", "bottom", "left", "top", "width", "height", "tile_left", "tile_top")
MARKERS = range(0xFF01, 0x10000)
IN_HEADER = [marker for marker in MARKERS if marker not in jpeg_2000.KEPT and marker != 0xFF90]
IN_TILES = [marker for marker in MARKERS if marker not in jpeg_2000.KEPT_IN_TILES and marker != 0xFF93]
# T.800 annex I, T.801 annex M and T.814, and what is no box at all
BOXES = (
    b"jP  ftyp jp2h ihdr bpcc colr pclr cmap cdef res  resc resd jp2i xml  uuid uinf ulst url  rreq jpch jplh cgrp "
    b"opct cref ftbl flst dtbl mdat free asoc nlst lbl  roid drep gtso chck mp7b jp2x PCLR \0\0\0\0 \xff\xff\xff\xff"
)
KINDS = sorted({BOXES[at : at + 4] for at in range(0, len(BOXES) - 3, 5)})


def segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">HH", marker, 2 + len(content)) + content


def part(packets: bytes, *, tile: int = 0, index: int = 0, count: int = 1, head: bytes = b"") -> bytes:
    return struct.pack(">HHHIBB", 0xFF90, 10, tile, 14 + len(head) + len(packets), index, count) + head + SOD + packets


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def boxed(frame: bytes, *, before: bytes = b"", within: bytes = b"") -> bytes:
    shape = struct.pack(">IIHBBBB", *FILM.shape, 1, 7, 7, 0, 0)
    head = box(b"jp2h", box(b"ihdr", shape) + within + box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17)))
    return box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + before + head + box(b"jp2c", frame)


def replaced(marker: int, content: bytes) -> bytes:
    """The frame with another content in one segment of its main header."""
    at = HEADER.index(marker.to_bytes(2, "big"))
    (length,) = struct.unpack_from(">H", HEADER, at + 2)
    return HEADER[:at] + segment(marker, content) + HEADER[at + 2 + length :] + part(PACKETS) + EOC


def sized(**fields: int) -> bytes:
    """The frame with other numbers in its SIZ segment."""
    found = dict(zip(("capabilities", *FIELDS), struct.unpack_from(">H8I", HEADER, 6), strict=True)) | fields
    return HEADER[:6] + struct.pack(">H8I", *found.values()) + HEADER[40:] + part(PACKETS) + EOC


PLAIN = HEADER + part(PACKETS) + EOC
CLEAN = jpeg_2000.rebuild_jpeg_2000_frame(PLAIN)


def handed_over(frame: bytes) -> str:
    """Check that the decoders were handed the film as it was or nothing, and return the error's code."""
    codes = set()
    for halvings in (0, 1):
        handed, pixels, code = outcome(partial(stored, frame, LOSSLESS, FILM, halvings=halvings))
        assert set(handed) <= {CLEAN}
        assert (pixels is not None) == bool(handed)
        if not halvings and pixels is not None:
            assert np.array_equal(pixels, FILM)
        codes.add(code)
    (code,) = codes
    return code


# --------------------------------------------------------------------------- what a decoder is handed


@pytest.mark.parametrize("content", [b"", b"\0\0", bytes(range(40)), b"\xff" * 300], ids=len)
def test_no_other_marker_reaches_a_decoder(content: bytes) -> None:
    """Every code but those on the list, in the main header and in a tile-part's."""
    codes = set()
    for marker in IN_HEADER:
        expected = "" if marker in jpeg_2000.DROPPED else "decode_failed"
        extra = segment(marker, content)
        assert handed_over(HEADER + extra + part(PACKETS) + EOC) == expected
        codes.add(expected)
    for marker in IN_TILES[:: 1 if not content else 7]:
        expected = "" if marker in jpeg_2000.DROPPED_IN_TILES else "decode_failed"
        assert handed_over(HEADER + part(PACKETS, head=segment(marker, content)) + EOC) == expected
    assert codes == {"", "decode_failed"}


def header_ends() -> Iterator[int]:
    at = 2
    while at < len(HEADER):
        at += 2 + struct.unpack_from(">H", HEADER, at + 2)[0]
        yield at


@given(
    marker=st.one_of(st.sampled_from(sorted(jpeg_2000.DROPPED)), st.sampled_from(IN_HEADER)),
    content=st.binary(max_size=600),
    place=st.sampled_from(list(header_ends())),
    times=st.integers(1, 5),
)
def test_a_segment_with_any_content_at_any_place_is_dropped_or_refused(
    marker: int, content: bytes, place: int, times: int
) -> None:
    frame = HEADER[:place] + segment(marker, content) * times + HEADER[place:] + part(PACKETS) + EOC
    assert handed_over(frame) == ("" if marker in jpeg_2000.DROPPED else "decode_failed")


@given(marker=st.sampled_from(sorted(jpeg_2000.KEPT)), content=st.binary(max_size=60), extra=st.booleans())
def test_what_is_kept_is_checked(marker: int, content: bytes, *, extra: bool) -> None:
    """With any content, in place of what was there or beside it: refused, or handed over as it was checked."""
    code = marker.to_bytes(2, "big")
    frame = HEADER + segment(marker, content) + PLAIN[len(HEADER) :] if extra or code not in HEADER else None
    handed, _, _ = outcome(lambda: stored(frame or replaced(marker, content), LOSSLESS, FILM))
    for bare in handed:
        assert bare == jpeg_2000.rebuild_jpeg_2000_frame(bare)
        assert bare.startswith(CLEAN[:6])
        assert bare[8:40] == CLEAN[8:40]


@given(
    fields=st.dictionaries(
        st.sampled_from(FIELDS),
        st.one_of(st.integers(0, 300), st.integers(0, 0xFFFFFFFF)),
    )
)
def test_no_other_size_reaches_a_decoder(fields: dict[str, int]) -> None:
    handed, _, code = outcome(lambda: stored(sized(**fields), LOSSLESS, FILM))
    for bare in handed:
        right, bottom, left, top, width, height, tile_left, tile_top = struct.unpack_from(">8I", bare, 8)
        assert (bottom, right) == FILM.shape
        assert (left, top, tile_left, tile_top) == (0, 0, 0, 0)
        assert 0 < width <= right
        assert 0 < height <= bottom
    assert handed or code in {"broken_header", "decode_failed", "truncated"}


def test_tiles_larger_than_the_image_are_the_same_picture() -> None:
    assert handed_over(sized(width=0xFFFFFFFF, height=4096)) == ""


@pytest.mark.parametrize("head", [b"", segment(0xFF64, b"\0\1by nobody"), segment(0xFF58, b"\0\x10")], ids=len)
@given(cuts=st.lists(st.integers(0, len(PACKETS)), max_size=12), count=st.sampled_from(["none", "last", "all"]))
def test_tile_parts_are_joined(head: bytes, cuts: list[int], count: str) -> None:
    places = [0, *sorted(cuts), len(PACKETS)]
    total = len(places) - 1
    counts = [total if count == "all" or (count == "last" and index == total - 1) else 0 for index in range(total)]
    parts = [
        part(PACKETS[places[index] : places[index + 1]], index=index, count=counts[index], head=head)
        for index in range(total)
    ]
    assert handed_over(HEADER + b"".join(parts) + EOC) == ""


@pytest.mark.parametrize(
    "parts, code",
    [
        ([part(PACKETS, index=1)], "decode_failed"),
        ([part(PACKETS, tile=1)], "decode_failed"),
        ([part(PACKETS), part(b"", index=2)], "decode_failed"),
        ([part(PACKETS), part(b"")], "decode_failed"),
        ([part(PACKETS, count=2)], "truncated"),
        ([part(b"")], "truncated"),
        ([], "truncated"),
        ([part(PACKETS).replace(b"\xff\x90\0\x0a", b"\xff\x90\0\x0b")], "decode_failed"),
        ([part(PACKETS)[:-9]], "truncated"),
        ([SOT + struct.pack(">HHIBB", 10, 0, 5, 0, 1) + SOD + PACKETS], "truncated"),
        ([part(PACKETS), *(part(b"", index=index) for index in range(1, 255))], ""),
    ],
)
def test_tile_parts_are_checked(parts: list[bytes], code: str) -> None:
    assert handed_over(HEADER + b"".join(parts) + EOC) == code


def test_a_last_tile_part_may_leave_its_length_open() -> None:
    whole = bytearray(HEADER + part(PACKETS) + EOC)
    struct.pack_into(">I", whole, len(HEADER) + 6, 0)
    assert handed_over(bytes(whole)) == ""
    assert handed_over(bytes(whole) + bytes(3)) == ""
    assert handed_over(bytes(whole[:-2])) == "truncated"


def test_the_end_may_be_missing_where_all_lengths_are_kept() -> None:
    for tail in (b"", bytes(8), b"\xff\xd9\0", b"anything"):
        assert handed_over(HEADER + part(PACKETS) + tail) == ""


# --------------------------------------------------------------------------- boxes


def test_boxes_are_read_through() -> None:
    assert handed_over(boxed(PLAIN)) == ""
    whole = boxed(PLAIN)
    at = whole.index(b"jp2c") - 4
    assert handed_over(whole[:at] + struct.pack(">I", 0) + whole[at + 4 :]) == ""
    long = struct.pack(">I4sQ", 1, b"jp2c", 16 + len(PLAIN)) + PLAIN
    assert handed_over(whole[:at] + long) == ""


@given(
    kind=st.one_of(st.sampled_from(KINDS), st.binary(min_size=4, max_size=4)),
    content=st.binary(max_size=900),
    within=st.booleans(),
)
def test_no_box_reaches_a_decoder(kind: bytes, content: bytes, *, within: bool) -> None:
    extra = box(kind, content)
    code = handed_over(boxed(PLAIN, within=extra) if within else boxed(PLAIN, before=extra))
    if within:
        assert code == ("unsupported_pixels" if kind in jpeg_2000.PALETTE_BOXES else "")
    elif kind not in {b"jp2c", b"jp2h"}:
        assert code == ""


@given(at=st.integers(0, 84), value=st.integers(0, 255))
def test_damaged_boxes_hand_over_the_codestream_or_nothing(at: int, value: int) -> None:
    data = bytearray(boxed(PLAIN))
    data[at] = value
    handed_over(bytes(data))


def test_boxes_without_end_are_refused() -> None:
    with pytest.raises(DecodeFailed):
        jpeg_2000.rebuild_jpeg_2000_frame(box(b"jP  ", b"\r\n\x87\n") + box(b"free") * 200_000)
    with pytest.raises(DecodeFailed):
        jpeg_2000.rebuild_jpeg_2000_frame(HEADER + segment(0xFF64) * 200_000 + part(PACKETS) + EOC)


@pytest.mark.parametrize("kind", sorted(jpeg_2000.PALETTE_BOXES))
def test_indices_of_a_palette_are_no_grey_levels(kind: bytes) -> None:
    with pytest.raises(UnsupportedPixels):
        jpeg_2000.rebuild_jpeg_2000_frame(boxed(PLAIN, within=box(kind, bytes(10))))


# --------------------------------------------------------------------------- how finely a picture may be divided


def coded(*, levels: int = 5, block: int = 0x44, layers: int = 1, precincts: bytes = b"", tile: int = 0) -> bytes:
    """A frame of 8000 x 8000 that says how it is divided, with hardly any packets."""
    tile = tile or 8000
    size = struct.pack(">H8IH", 0, 8000, 8000, 0, 0, tile, tile, 0, 0, 1) + b"\x07\x01\x01"
    style = struct.pack(">BBHB5B", bool(precincts), 0, layers, 0, levels, block >> 4, block & 15, 0, 1) + precincts
    steps = b"\x40" + b"\x48" * (3 * levels + 1)
    head = b"\xff\x4f" + segment(0xFF51, size) + segment(0xFF52, style) + segment(0xFF5C, steps)
    tiles = (8000 // tile) ** 2
    return head + b"".join(part(b"\0", tile=index) for index in range(tiles)) + EOC


@pytest.mark.parametrize(
    "how",
    [
        {"block": 0x00},
        {"precincts": b"\x11" * 6},
        {"layers": 65535, "precincts": b"\x77" * 6},
        {"tile": 32},
        {"layers": 0},
        {"levels": 33},
        {"block": 0x55},
        {"precincts": b"\x88" * 5},
        {"precincts": b"\x88" + b"\x80" * 5},
    ],
    ids=str,
)
def test_what_is_divided_too_finely_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(DecodeFailed):
        jpeg_2000.rebuild_jpeg_2000_frame(coded(**how))


@pytest.mark.parametrize(
    "how", [{}, {"tile": 80}, {"layers": 50}, {"precincts": b"\x77" * 6}, {"block": 0x22}, {"levels": 0}], ids=str
)
def test_what_encoders_write_is_not(how: dict[str, Any]) -> None:
    assert jpeg_2000.rebuild_jpeg_2000_frame(coded(**how)) == coded(**how)


# --------------------------------------------------------------------------- the same picture


@given(
    rows=st.integers(32, 90),
    columns=st.integers(32, 90),
    bits=st.sampled_from([2, 7, 8, 9, 12, 15, 16]),
    seed=st.integers(0, 99),
    ratio=st.sampled_from([None, [4], [20, 5, 1]]),
)
def test_a_rebuilt_frame_is_the_same_picture(rows: int, columns: int, bits: int, seed: int, ratio: object) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns)).astype("u1" if bits <= 8 else "u2")
    how = {"compression_ratios": ratio} if ratio else {}
    frame = bytes(encode_array(values, use_mct=False, bits_stored=bits, photometric_interpretation=2, **how))
    bare = jpeg_2000.rebuild_jpeg_2000_frame(frame)
    assert bytes(openjpeg.decode_pixel_data(bare, version=2)) == bytes(openjpeg.decode_pixel_data(frame, version=2))
    assert jpeg_2000.rebuild_jpeg_2000_frame(bare) == bare
    assert (jpeg_2000.read_jpeg_2000_size(bare).rows, jpeg_2000.read_jpeg_2000_size(bare).columns) == (rows, columns)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"resolutions": 2},
        {"codecformat": "jp2"},
        {"codecformat": "j2k", "reversible": True},
        {"level": 40},
        {"mct": False},
    ],
    ids=str,
)
def test_what_another_encoder_writes_is_the_same_picture(colours: int, how: dict[str, Any]) -> None:
    film = FILM if colours == 1 else np.dstack([FILM, FILM[::-1], FILM])
    frame = bytes(imagecodecs.jpeg2k_encode(film, **how))
    wanted = imagecodecs.jpeg2k_decode(frame)
    with recorded() as handed:
        assert np.array_equal(stored(frame, LOSSLESS, film), wanted)
    assert handed == [jpeg_2000.rebuild_jpeg_2000_frame(frame)]
    assert handed[0].startswith(b"\xff\x4f\xff\x51")


@pytest.mark.parametrize("no_jp2", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {"tile_size": (48, 32)},
        {"tile_size": (64, 64), "plt": True, "comment": b"by nobody"},
        {"codeblock_size": (4, 4), "precinct_size": (32, 32), "num_resolutions": 3},
        {"progression": "CPRL", "quality_mode": "rates", "quality_layers": [40, 20, 5]},
    ],
    ids=str,
)
def test_what_a_third_encoder_writes_is_the_same_picture(how: dict[str, Any], *, no_jp2: bool) -> None:
    stream = io.BytesIO()
    Image.fromarray(FILM).save(stream, "JPEG2000", no_jp2=no_jp2, **how)
    frame = stream.getvalue()
    wanted = imagecodecs.jpeg2k_decode(frame)
    assert np.array_equal(stored(frame, LOSSLESS, wanted), wanted)


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("bits", [8, 16])
def test_high_throughput_is_the_same_picture(bits: int, *, reversible: bool) -> None:
    film = FILM if bits == 8 else FILM.astype(np.uint16) * 257
    frame = bytes(imagecodecs.htj2k_encode(film, level=None if reversible else 0.001, reversible=reversible))
    wanted = bytes(openjpeg.decode_pixel_data(frame, version=2))
    assert stored(frame, HTJ2K, film).tobytes() == wanted


def test_a_tile_may_have_a_coding_style_of_its_own() -> None:
    """Both styles move to the tile; the main header says something else that holds for no tile."""
    at = HEADER.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", HEADER, at + 2)
    own = HEADER[at : at + 2 + length]
    steps_at = HEADER.index(b"\xff\x5c")
    (steps_length,) = struct.unpack_from(">H", HEADER, steps_at + 2)
    steps = HEADER[steps_at : steps_at + 2 + steps_length]
    other = HEADER.replace(own, segment(0xFF52, own[4:9] + b"\x01" + own[10:]))
    frame = other + part(PACKETS, head=own + steps) + EOC
    assert np.array_equal(stored(frame, LOSSLESS, FILM), FILM)
    with pytest.raises(DecodeFailed):
        jpeg_2000.rebuild_jpeg_2000_frame(
            other + part(PACKETS[:9], head=own) + part(PACKETS[9:], index=1, head=own) + EOC
        )


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_frame_that_is_cut_off_is_never_half_a_picture(share: float) -> None:
    cut = PLAIN[: int(share * (len(PLAIN) - 2))]
    with pytest.raises((TruncatedPixels, DecodeFailed)):
        jpeg_2000.rebuild_jpeg_2000_frame(cut)


@given(changes=st.lists(st.tuples(st.integers(0, len(FRAME) + 20), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_has_a_name(changes: list[tuple[int, int]]) -> None:
    data = bytearray(FRAME)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        bare = jpeg_2000.rebuild_jpeg_2000_frame(bytes(data))
    except UnreadableError:
        return
    assert jpeg_2000.rebuild_jpeg_2000_frame(bare) == bare


def test_the_halved_picture_is_the_same_from_boxes() -> None:
    bare, wrapped = (stored(frame, LOSSLESS, FILM, halvings=1) for frame in (FRAME, boxed(PLAIN)))
    assert bare.shape == (35, 45)
    assert np.array_equal(bare, wrapped)
    with Image.open(io.BytesIO(FRAME), formats=["JPEG2000"]) as picture:
        picture.reduce = 1  # type: ignore[method-assign, assignment]
        assert np.array_equal(np.asarray(picture), bare)
