"""PNG: the decoder is handed only what a picture needs, and the picture stays as it was."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from preread.core.errors import DecodeFailed, MultiFrame, UnreadableError
from preread.imaging import raster
from preread.imaging.codecs import png
from preread_training.data import phantoms
from tests.support.decoders import outcome

FILM = phantoms.draw_chest(3, rows=40, columns=56)
# PNG third edition, extensions, APNG, and some that are none
KINDS = (
    b"tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI iTXt tEXt zTXt bKGD hIST pHYs sPLT eXIf tIME acTL fcTL fdAT oFFs "
    b"pCAL sCAL gIFg gIFt gIFx sTER dSIG iDOT caBX vpAg JHDR MHDR CgBI abcd ABCD aBcD".split()
)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def pillow(picture: Image.Image, **how: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **how)
    return stream.getvalue()


def chunks(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        length = 12 + struct.unpack_from(">I", data, at)[0]
        found.append(data[at : at + length])
        at += length
    return found


def joined(parts: list[bytes]) -> bytes:
    return png.SIGNATURE + b"".join(parts)


GREY, PALETTE = pillow(Image.fromarray(FILM)), pillow(Image.fromarray(FILM).convert("P"))
CLEAN = {data: png.rebuild_png_file(data)[0] for data in (GREY, PALETTE)}


def handed_over(data: bytes, original: bytes) -> str:
    handed, pixels, code = outcome(lambda: raster.decode_raster(data, "PNG", 1_000_000).pixels)
    assert handed in ([CLEAN[original]], [])
    assert (pixels is not None) == bool(handed)
    assert pixels is None or np.array_equal(pixels, FILM) or sorted(pixels.shape) == sorted(FILM.shape)
    return code


@given(
    kind=st.one_of(st.sampled_from(KINDS), st.binary(min_size=4, max_size=4)),
    content=st.binary(max_size=3000),
    original=st.sampled_from([GREY, PALETTE]),
    place=st.integers(0, 5),
)
def test_no_other_chunk_reaches_a_decoder(kind: bytes, content: bytes, original: bytes, place: int) -> None:
    if kind in png.KEPT:
        return
    parts = chunks(original)
    parts.insert(place, chunk(kind, content))
    code = handed_over(joined(parts), original)
    if kind.isalpha() and kind[:1].islower() and kind not in {b"fdAT", b"acTL"} and place:
        assert code == ""
    elif place < len(chunks(original)):
        assert code or kind == b"acTL"


@pytest.mark.parametrize("kind", KINDS, ids=bytes.decode)
@pytest.mark.parametrize("content", [b"", b"\0", bytes(4000)], ids=len)
def test_every_known_chunk_is_dropped_or_refused(kind: bytes, content: bytes) -> None:
    for original in (GREY, PALETTE):
        for place in range(1, len(chunks(original))):
            parts = chunks(original)
            parts.insert(place, chunk(kind, content))
            code = handed_over(joined(parts), original)
            assert code == ("multi_frame" if kind == b"fdAT" else "" if kind[:1].islower() else "decode_failed")


@given(kind=st.sampled_from(sorted(png.KEPT)), content=st.binary(max_size=800), place=st.integers(0, 4))
def test_what_is_kept_is_checked(kind: bytes, content: bytes, place: int) -> None:
    parts = chunks(PALETTE)
    parts.insert(place, chunk(kind, content))
    handed, _, _ = outcome(lambda: raster.decode_raster(joined(parts), "PNG", 1_000_000).pixels)
    for bare in handed:
        kinds = [part[4:8] for part in chunks(bare)]
        assert kinds[:2] == [b"IHDR", b"PLTE"]
        assert set(kinds[2:-1]) <= {b"IDAT"}
        assert kinds[-1:] == [b"IEND"]
        assert png.rebuild_png_file(bare)[0] == bare


@given(changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_has_a_name(changes: list[tuple[int, int]]) -> None:
    data = bytearray(PALETTE)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        bare, _ = png.rebuild_png_file(bytes(data))
    except tuple(UnreadableError.__subclasses__()):
        return
    assert png.rebuild_png_file(bare)[0] == bare


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_rebuilt_file_is_the_same_picture(mode: str) -> None:
    picture = Image.fromarray(FILM.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(FILM).convert(mode)
    information = PngInfo()
    information.add_text("Author", "somebody")
    data = pillow(picture, pnginfo=information, dpi=(300, 300), icc_profile=b"x" * 200)
    bare, _ = png.rebuild_png_file(data)
    assert b"somebody" not in bare
    ours, theirs = Image.open(io.BytesIO(bare)), Image.open(io.BytesIO(data))
    assert ours.mode == theirs.mode
    assert np.array_equal(np.asarray(ours.convert("RGBA")), np.asarray(theirs.convert("RGBA")))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_colours_are_the_same_picture(bits: int) -> None:
    data = pillow(Image.fromarray(FILM).quantize(1 << bits), bits=bits)
    ours, theirs = Image.open(io.BytesIO(png.rebuild_png_file(data)[0])), Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(ours.convert("RGB")), np.asarray(theirs.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["eXIf", "iTXt", "iTXt compressed", "zTXt", "tEXt"])
def test_a_picture_is_turned_as_pillow_would(orientation: int, where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    information, how = PngInfo(), {}
    raw = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    if where == "eXIf":
        how = {"exif": exif}
    elif where.startswith("iTXt"):
        text = f'<rdf:Description tiff:Orientation="{orientation}"/>'
        information.add_itxt("XML:com.adobe.xmp", text, zip=where.endswith("compressed"))
    else:
        text = f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
        information.add_text("Raw profile type exif", text, zip=where == "zTXt")
    data = pillow(Image.fromarray(FILM), pnginfo=information, **how)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(raster.decode_raster(data, "PNG", 1_000_000).pixels, wanted)


def test_a_text_that_inflates_to_much_is_not_kept() -> None:
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)
    parts = chunks(GREY)
    parts.insert(1, chunk(b"iTXt", text))
    assert len(png.rebuild_png_file(joined(parts))[1].xmp) <= 1 << 20


def test_chunks_are_counted_and_ordered() -> None:
    parts = chunks(GREY)
    with pytest.raises(DecodeFailed):
        png.rebuild_png_file(joined([parts[0], *[chunk(b"tEXt", b"a\0b")] * 200_000, *parts[1:]]))
    with pytest.raises(DecodeFailed):
        png.rebuild_png_file(joined([parts[0], parts[0], *parts[1:]]))
    with pytest.raises(DecodeFailed):
        png.rebuild_png_file(joined([*chunks(PALETTE)[:1], *chunks(PALETTE)[2:]]))
    with pytest.raises(DecodeFailed):
        png.rebuild_png_file(joined([parts[1], parts[0], *parts[1:]]))
    damaged = bytearray(GREY)
    damaged[8 + 12 + 13 - 1] ^= 1
    with pytest.raises(DecodeFailed):
        png.rebuild_png_file(bytes(damaged))


def test_an_end_that_is_missing_is_written() -> None:
    for tail in (0, 4, 11):
        assert handed_over(GREY[:-12] + GREY[-12:][:tail], GREY) == ""


@pytest.mark.parametrize("frames", [2, 3])
@pytest.mark.parametrize("default", [False, True])
def test_an_animation_is_no_picture(frames: int, *, default: bool) -> None:
    more = [Image.fromarray(np.roll(FILM, shift)) for shift in range(1, frames + 1)]
    data = pillow(Image.fromarray(FILM), save_all=True, append_images=more[: frames - 1], default_image=default)
    with pytest.raises(MultiFrame):
        png.rebuild_png_file(data)
