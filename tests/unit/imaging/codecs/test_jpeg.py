"""JPEG and JPEG-LS: the decoder is handed only what a picture needs, and the picture stays as it was."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preread.core.errors import DecodeFailed, TruncatedPixels, UnreadableError, UnsupportedPixels
from preread.imaging import raster
from preread.imaging.codecs import jpeg
from preread_training.data import phantoms
from tests.support.decoders import outcome, stored

BASELINE, LOSSLESS, LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
FILM = phantoms.draw_chest(3, rows=40, columns=56)
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def pillow(picture: Image.Image, **how: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **how)
    return stream.getvalue()


FRAMES = {
    "baseline": (BASELINE, bytes(imagecodecs.jpeg8_encode(FILM, level=95))),
    "progressive": (BASELINE, pillow(Image.fromarray(FILM), progressive=True)),
    "lossless": (LOSSLESS, bytes(imagecodecs.jpeg8_encode(FILM, lossless=True))),
    "jpeg-ls": (LS, bytes(jpeg_ls.encode_array(FILM))),
}
CLEAN = {name: jpeg.rebuild_jpeg_frame(frame) for name, (_, frame) in FRAMES.items()}
PIXELS = {name: stored(frame, syntax, FILM) for name, (syntax, frame) in FRAMES.items()}


def places(data: bytes) -> list[int]:
    """Where a segment may stand: behind SOI, behind every segment, and behind every scan."""
    found, at = [2], 2
    while data[at : at + 2] != EOI:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
        found.append(at)
        while data[at] != 0xFF or data[at + 1] < 0x80 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 1
        found.append(at)
    return sorted({at for at in found if data[at] == 0xFF and data[at + 1] >= 0xC0})


def handed_over(name: str, frame: bytes) -> str:
    """Check that the decoder was handed the frame as it was or nothing, and return the error's code."""
    handed, pixels, code = outcome(lambda: stored(frame, FRAMES[name][0], FILM))
    assert handed in ([CLEAN[name]], [])
    assert (pixels is not None) == bool(handed)
    assert pixels is None or np.array_equal(pixels, PIXELS[name])
    return code


def test_what_is_handed_over_is_small() -> None:
    for name, (_, frame) in FRAMES.items():
        assert len(CLEAN[name]) <= len(frame)
        kept = {CLEAN[name][at + 1] for at in places(CLEAN[name])}
        assert kept <= jpeg.KEPT | {0xD9}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xd9", bytes(range(256)) * 20], ids=len)
def test_no_other_marker_reaches_a_decoder(name: str, content: bytes) -> None:
    """All of 256, everywhere where a segment may stand."""
    clean, codes = CLEAN[name], set()
    for marker in range(256):
        if marker in jpeg.KEPT or marker in {0xD9, 0xFF}:
            continue
        for place in places(clean):
            if place > clean.index(b"\xff\xda") and (marker < 0x80 or 0xD0 <= marker <= 0xD7):
                continue  # behind a scan this is a part of the scan, or damage to it
            for extra in (segment(marker, content), bytes((0xFF, marker))):
                code = handed_over(name, clean[:place] + extra + clean[place:])
                if len(extra) > 2 and marker in jpeg.DROPPED:
                    assert code == ""
                codes.add(code)
    assert {"", "decode_failed"} <= codes


@given(
    name=st.sampled_from(sorted(FRAMES)),
    marker=st.sampled_from(sorted(jpeg.DROPPED)),
    content=st.binary(max_size=3000),
    share=st.floats(0, 1, exclude_max=True),
    times=st.integers(1, 4),
)
def test_what_applications_add_is_dropped(name: str, marker: int, content: bytes, share: float, times: int) -> None:
    clean = CLEAN[name]
    here = places(clean)
    place = here[int(share * len(here))]
    if marker == 0xE8 and content.startswith(b"mrfx"):
        content = b""
    assert handed_over(name, clean[:place] + segment(marker, content) * times + clean[place:]) == ""


@given(name=st.sampled_from(sorted(FRAMES)), marker=st.sampled_from(sorted(jpeg.KEPT)), content=st.binary(max_size=70))
def test_what_is_kept_is_checked(name: str, marker: int, content: bytes) -> None:
    """Another segment of a kind that is kept, with any content, before the first scan."""
    syntax, clean = FRAMES[name][0], CLEAN[name]
    at = clean.index(b"\xff\xda")
    frame = clean[:at] + segment(marker, content) + clean[at:]
    handed, _, code = outcome(lambda: stored(frame, syntax, FILM))
    if marker in jpeg.FRAMES or marker == 0xDA:
        assert code
    for bare in handed:
        assert bare == jpeg.rebuild_jpeg_frame(bare)


@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6), data=st.data())
def test_any_damage_has_a_name(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([frame for _, frame in FRAMES.values()])))
    for at, value in changes:
        frame[at % len(frame)] = value
    try:
        bare = jpeg.rebuild_jpeg_frame(bytes(frame))
    except tuple(UnreadableError.__subclasses__()):
        return
    assert jpeg.rebuild_jpeg_frame(bare) == bare


@given(name=st.sampled_from(sorted(FRAMES)), share=st.floats(0, 1, exclude_max=True))
def test_a_frame_that_is_cut_off_is_never_half_a_picture(name: str, share: float) -> None:
    with pytest.raises((TruncatedPixels, DecodeFailed)):
        jpeg.rebuild_jpeg_frame(CLEAN[name][: int(share * len(CLEAN[name]))])


# --------------------------------------------------------------------------- what a decoder takes for granted


def with_scans(count: int) -> bytes:
    clean = CLEAN["progressive"]
    last = clean.rindex(b"\xff\xda")
    return clean[:-2] + clean[last:-2] * count + EOI


def test_scans_are_counted() -> None:
    scans = CLEAN["progressive"].count(b"\xff\xda")
    assert scans < 20
    jpeg.rebuild_jpeg_frame(with_scans(jpeg.SCANS_MAX - scans))
    handed, _, code = outcome(lambda: stored(with_scans(jpeg.SCANS_MAX), BASELINE, FILM))
    assert (handed, code) == ([], "decode_failed")
    with pytest.raises(DecodeFailed):
        raster.decode_raster(with_scans(400), "JPEG", 64_000_000)


@pytest.mark.parametrize("name", ["baseline", "lossless", "jpeg-ls"])
def test_a_component_is_coded_once(name: str) -> None:
    clean = CLEAN[name]
    scan = clean.index(b"\xff\xda")
    assert handed_over(name, clean[:-2] + clean[scan:]) == "decode_failed"
    assert handed_over(name, clean[:scan] + EOI) == "truncated"


def changed(name: str, marker: int, change: Callable[[bytes], bytes]) -> bytes:
    clean = CLEAN[name]
    at = clean.index(bytes((0xFF, marker)))
    (length,) = struct.unpack_from(">H", clean, at + 2)
    return clean[:at] + segment(marker, change(clean[at + 4 : at + 2 + length])) + clean[at + 2 + length :]


DAMAGES: tuple[tuple[str, int, Callable[[bytes], bytes]], ...] = (
    ("baseline", 0xC0, lambda c: c[:5] + b"\x05" + c[6:]),
    ("baseline", 0xC0, lambda c: c + b"\x01\x11\x00"),
    ("baseline", 0xC0, lambda c: c[:7] + b"\x51" + c[8:]),
    ("baseline", 0xC0, lambda c: c[:7] + b"\x10" + c[8:]),
    ("baseline", 0xC0, lambda c: c[:8] + b"\x04"),
    ("baseline", 0xC0, lambda c: c[:1] + b"\0\0" + c[3:]),
    ("baseline", 0xDB, lambda c: c[:-1]),
    ("baseline", 0xDB, lambda c: b"\x24" + c[1:]),
    ("baseline", 0xC4, lambda c: c[:-1]),
    ("baseline", 0xC4, lambda c: b"\x44" + c[1:]),
    ("baseline", 0xC4, lambda c: b"\x00" + b"\xff" * 16 + bytes(4080)),
    ("baseline", 0xDA, lambda c: b"\x02" + c[1:]),
    ("baseline", 0xDA, lambda c: c[:1] + b"\x63" + c[2:]),
    ("baseline", 0xDA, lambda c: c[:2] + b"\x44" + c[3:]),
    ("progressive", 0xDA, lambda c: c[:-3] + b"\x05\x04\x00"),
    ("progressive", 0xDA, lambda c: c[:-3] + b"\x00\x3f\x00"),
    ("progressive", 0xDA, lambda c: c[:-1] + b"\x30"),
    ("lossless", 0xDA, lambda c: c[:-3] + b"\x08\x00\x00"),
    ("lossless", 0xDA, lambda c: c[:-3] + b"\x01\x00\x08"),
    ("jpeg-ls", 0xDA, lambda c: c[:-2] + b"\x03\x00"),
    ("jpeg-ls", 0xDA, lambda c: c[:2] + b"\x01" + c[3:]),
)


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_damaged_segments_reach_no_decoder(number: int) -> None:
    name, marker, change = DAMAGES[number]
    assert handed_over(name, changed(name, marker, change)) in {"decode_failed", "broken_header"}


@pytest.mark.parametrize("odd", [b"\x00\x00\x00", b"\x00\x3f\x11", b"\xff\xff\xff"])
def test_what_a_sequential_scan_leaves_open_is_set(odd: bytes) -> None:
    assert handed_over("baseline", changed("baseline", 0xDA, lambda c: c[:-3] + odd)) == ""


def test_palettes_and_foreign_transforms_of_jpeg_ls_are_refused() -> None:
    at = CLEAN["jpeg-ls"].index(b"\xff\xda")
    for extra in (segment(0xF8, b"\x02\x01\x01" + bytes(9)), segment(0xE8, b"mrfx\x01")):
        with pytest.raises(UnsupportedPixels):
            jpeg.rebuild_jpeg_frame(CLEAN["jpeg-ls"][:at] + extra + CLEAN["jpeg-ls"][at:])
    for extra in (segment(0xF8, b"\x01\x00\xff" + struct.pack(">4H", 3, 7, 21, 64)), segment(0xE8, b"mrfx\x00")):
        jpeg.rebuild_jpeg_frame(CLEAN["jpeg-ls"][:at] + extra + CLEAN["jpeg-ls"][at:])


@pytest.mark.parametrize("process", sorted(set(range(0xC0, 0xD0)) - jpeg.FRAMES - {0xC4, 0xC8, 0xCC}))
def test_other_processes_are_refused(process: int) -> None:
    frame = CLEAN["baseline"].replace(b"\xff\xc0", bytes((0xFF, process)))
    assert handed_over("baseline", frame) == "decode_failed"


def test_bytes_behind_the_end_and_fill_bytes_change_nothing() -> None:
    for name, clean in CLEAN.items():
        assert handed_over(name, clean + b"\0" + clean) == ""
        assert handed_over(name, SOI + b"\xff" * 9 + clean[2:]) == ""
        assert handed_over(name, SOI + b"\xff" * 9) == "truncated"
        assert handed_over(name, SOI + segment(0xFE) * 200_000 + clean[2:]) == "decode_failed"


# --------------------------------------------------------------------------- the same picture


@given(
    rows=st.integers(24, 50),
    columns=st.integers(24, 50),
    bits=st.sampled_from([8, 12]),
    seed=st.integers(0, 99),
    how=st.sampled_from([{}, {"optimize": True}, {"lossless": True, "predictor": 4}, {"level": 30}]),
)
def test_a_rebuilt_frame_is_the_same_picture(
    rows: int, columns: int, bits: int, seed: int, how: dict[str, Any]
) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << (bits - 1), (rows, columns))
    values = values.astype("u1" if bits == 8 else "u2")
    frame = bytes(imagecodecs.jpeg8_encode(values, bitspersample=bits, **how))
    assert np.array_equal(imagecodecs.jpeg8_decode(jpeg.rebuild_jpeg_frame(frame)), imagecodecs.jpeg8_decode(frame))
    for near in (0, 3):
        frame = bytes(jpeg_ls.encode_array(values, lossy_error=near))
        assert bytes(jpeg_ls.decode_pixel_data(jpeg.rebuild_jpeg_frame(frame))[0]) == bytes(
            jpeg_ls.decode_pixel_data(frame)[0]
        )


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@given(
    progressive=st.booleans(),
    optimize=st.booleans(),
    subsampling=st.integers(0, 2),
    restart=st.integers(0, 3),
    quality=st.integers(30, 100),
    keep=st.booleans(),
)
def test_a_picture_keeps_its_colours(
    mode: str, *, progressive: bool, optimize: bool, subsampling: int, restart: int, quality: int, keep: bool
) -> None:
    picture = Image.fromarray(FILM if mode == "L" else np.dstack([FILM, FILM[::-1], 255 - FILM])).convert(mode)
    how = {"keep_rgb": True} if keep and mode == "RGB" else {"subsampling": subsampling}
    data = pillow(
        picture,
        progressive=progressive,
        optimize=optimize,
        restart_marker_blocks=restart,
        quality=quality,
        comment=b"by nobody",
        icc_profile=b"x" * 200,
        **how,
    )
    bare, _ = jpeg.rebuild_jpeg_file(data)
    assert b"by nobody" not in bare
    ours, theirs = Image.open(io.BytesIO(bare)), Image.open(io.BytesIO(data))
    assert ours.mode == theirs.mode
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("components", [3, 4])
@pytest.mark.parametrize("jfif", [b"", segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), segment(0xE0, b"JFXX\0" + bytes(9))])
@pytest.mark.parametrize("transform", [None, 0, 1, 2, 7])
@pytest.mark.parametrize("identifiers", [b"\1\2\3\4", b"RGBA", b"\0\1\2\3"])
def test_the_colour_transform_is_stated_again(
    components: int, jfif: bytes, transform: int | None, identifiers: bytes
) -> None:
    """As Pillow's decoder decides by JFIF, Adobe and identifiers, so it does by what it is handed."""
    mode = "RGB" if components == 3 else "CMYK"
    frame = jpeg.rebuild_jpeg_frame(pillow(Image.fromarray(np.dstack([FILM, FILM[::-1], 255 - FILM])).convert(mode)))
    numbers = frame[frame.index(b"\xff\xc0") + 10 :][: 3 * components : 3]
    swaps = dict(zip(numbers, identifiers, strict=False))
    renamed = bytearray(frame)
    for marker, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        at = frame.index(marker) + first
        for index in range(components):
            renamed[at + step * index] = swaps[frame[at + step * index]]
    adobe = b"" if transform is None else segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))
    data = SOI + jfif + adobe + bytes(renamed[2:])
    bare, _ = jpeg.rebuild_jpeg_file(data)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(data))))


def test_a_picture_is_handed_over_without_what_it_says_beside() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "somebody"
    data = pillow(Image.fromarray(FILM), exif=exif, comment=b"somebody", dpi=(300, 300))
    handed, pixels, _ = outcome(lambda: raster.decode_raster(data, "JPEG", 1_000_000).pixels)
    assert handed == [jpeg.rebuild_jpeg_frame(data)]
    assert b"somebody" not in handed[0]
    assert pixels is not None
    assert pixels.shape == FILM.shape[::-1]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_a_picture_is_turned_as_pillow_would(orientation: int, where: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    told = {"exif": exif} if where == "exif" else {"xmp": xmp}
    data = pillow(Image.fromarray(FILM), **told)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(raster.decode_raster(data, "JPEG", 1_000_000).pixels, wanted)


@given(st.binary(max_size=300))
def test_an_orientation_that_cannot_be_read_is_none(told: bytes) -> None:
    data = pillow(Image.fromarray(FILM))
    dirty = SOI + segment(0xE1, b"Exif\0\0" + told) + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + told) + data[2:]
    found = raster.decode_raster(dirty, "JPEG", 1_000_000).pixels
    assert sorted(found.shape) == sorted(FILM.shape)
