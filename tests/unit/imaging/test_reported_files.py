"""Kinds of files from public bug reports that viewers show, and what is read of them.

Every file is made here. The sources are of the kind: issues of pydicom, fo-dicom, DCMTK, dicomParser, cornerstone3D,
dcm4che, dicom-rs, and the compliance images of NEMA.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.valuerep import STANDARD_VR

from preread.core import errors
from preread.core.types import Caveat
from preread.imaging.codecs.codestreams import split_rle_frame
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.support.decoders import stored
from tests.support.files import (
    DELIMITER,
    before_pixel_data,
    encapsulated,
    frame_of,
    with_pixel_data,
    with_transfer_syntax,
)

FILM = phantoms.draw_chest(4, rows=96, columns=80)
COMPRESSED = [name for name in phantoms.TRANSFER_SYNTAXES if name not in phantoms.NATIVE]
BASE = {name: phantoms.to_dicom(FILM, Encoding(name, bits=8)) for name in COMPRESSED}
PIXELS = {name: decode_radiograph(read_image_header(data)).pixels for name, data in BASE.items()}
FRAMES = {name: frame_of(data) for name, data in BASE.items()}
EXPLICIT = phantoms.to_dicom(FILM)
CREATOR = struct.pack("<HH2sH", 0x0029, 0x0010, b"LO", 8) + b"ACME 1.0"
VRS = frozenset(vr.value.encode() for vr in STANDARD_VR)


def shown(data: bytes, levels: int = 1) -> tuple[Caveat, ...]:
    """Check that a file shows the drawing within some grey levels, and return its caveats."""
    radiograph = decode_radiograph(read_image_header(data))
    assert radiograph.pixels.shape == FILM.shape
    assert int(np.abs(radiograph.pixels.astype(int) - FILM).max()) <= levels
    return radiograph.caveats


def unchanged(syntax: str, items: bytes) -> None:
    """Check that other pixel data shows exactly what the undamaged file shows."""
    pixels = decode_radiograph(read_image_header(with_pixel_data(BASE[syntax], items))).pixels
    assert np.array_equal(pixels, PIXELS[syntax])


def even(frame: bytes) -> bytes:
    return frame + b"\0" * (len(frame) % 2)


def twelve_bits() -> np.ndarray:
    return np.floor(FILM.astype(np.float64) / 255 * 4095 + 0.5).astype(np.uint16)


def native(values: np.ndarray, **elements: Any) -> bytes:
    """Write stored values as they are, explicit little endian."""
    dataset = pydicom.dcmread(io.BytesIO(EXPLICIT))
    bits = 8 * values.dtype.itemsize
    pixels = values.tobytes()
    described = {
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "WindowCenter": None,
        "WindowWidth": None,
        "PixelData": pixels + b"\0" * (len(pixels) % 2),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in {**described, **elements}.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
                if dataset[keyword].VR == "US or SS":
                    dataset[keyword].VR = "US"
        dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, dataset)
    return stream.getvalue()


# --------------------------------------------------------------------------- JPEG-LS


@pytest.mark.parametrize("syntax, bits", [("jpeg-ls", 8), ("jpeg-ls", 12), ("jpeg-ls", 16), ("jpeg-ls-near", 12)])
@pytest.mark.parametrize("zeros", [1, 2, 3, 4, 9, 1000])
def test_jpeg_ls_with_zeros_before_its_end(syntax: str, bits: int, zeros: int) -> None:
    base = phantoms.to_dicom(FILM, Encoding(syntax, bits=bits))
    frame = frame_of(base).rstrip(b"\0")
    assert frame.endswith(b"\xff\xd9")
    shown(
        with_pixel_data(base, encapsulated(even(frame[:-2] + bytes(zeros) + frame[-2:]))),
        3 if syntax in phantoms.LOSSY else 1,
    )


@given(
    rows=st.integers(24, 40),
    columns=st.integers(24, 40),
    bits=st.sampled_from([8, 12, 16]),
    near=st.sampled_from([0, 2]),
    flat=st.booleans(),
    seed=st.integers(0, 999),
    zeros=st.integers(0, 12),
)
def test_padding_of_jpeg_ls_changes_no_value(
    rows: int, columns: int, bits: int, near: int, seed: int, zeros: int, *, flat: bool
) -> None:
    """Also where the codes themselves end in a zero byte."""
    values = np.random.default_rng(seed).integers(0, 1 << (bits - 3), (rows, columns))
    values = (values // (1 << (bits - 5)) if flat else values).astype("u1" if bits == 8 else "u2")
    values[0, 0] = (1 << bits) - 1
    frame = bytes(jpeg_ls.encode_array(values, lossy_error=near))
    expected = np.frombuffer(jpeg_ls.decode_pixel_data(frame)[0], values.dtype).reshape(values.shape)
    padded = frame[:-2] + bytes(zeros) + frame[-2:]
    assert np.array_equal(stored(padded, phantoms.TRANSFER_SYNTAXES["jpeg-ls"], values), expected)


def test_a_damaged_jpeg_ls_has_a_name() -> None:
    frame = bytearray(FRAMES["jpeg-ls"].rstrip(b"\0"))
    cut = bytes(frame[: len(frame) // 2]) + bytes(8) + b"\xff\xd9"
    with pytest.raises(errors.DecodeFailed):
        shown(with_pixel_data(BASE["jpeg-ls"], encapsulated(even(cut))))


# --------------------------------------------------------------------------- encapsulated pixel data


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_an_offset_table_with_an_entry_for_the_end(syntax: str) -> None:
    frame = FRAMES[syntax]
    items = encapsulated(frame, table=offsets(0, len(frame) + 8))
    unchanged(syntax, items)


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_an_offset_table_with_an_entry_for_each_fragment(syntax: str, parts: int) -> None:
    frame = FRAMES[syntax]
    step = len(frame) // parts // 2 * 2
    ends = [0, *(step * part for part in range(1, parts)), len(frame)]
    fragments = [frame[begin:end] for begin, end in pairwise(ends)]
    table = offsets(*(step * part + 8 * part for part in range(parts)))
    unchanged(syntax, encapsulated(*fragments, table=table))


@given(
    syntax=st.sampled_from(["rle", "jpeg-ls", "jpeg-lossless-sv1", "jpeg-2000-lossless"]),
    table=st.one_of(st.binary(max_size=64), st.lists(st.integers(0, 9999), max_size=9).map(lambda v: offsets(*v))),
    cut=st.floats(0, 1),
)
def test_any_offset_table_of_one_frame(syntax: str, table: bytes, cut: float) -> None:
    frame = FRAMES[syntax]
    at = int(cut * len(frame)) // 2 * 2
    shown(with_pixel_data(BASE[syntax], encapsulated(frame[:at], frame[at:], table=table)))


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_an_offset_table_of_several_frames(syntax: str) -> None:
    frame = FRAMES[syntax]
    items = encapsulated(frame, frame, table=offsets(0, len(frame) + 8))
    with pytest.raises(errors.BrokenHeader, match="several frames"):
        shown(with_pixel_data(BASE[syntax], items))


ENDS = {
    "eight zeros": bytes(8),
    "many zeros": bytes(5000),
    "few zeros": bytes(3),
    "nothing": b"",
    "half a delimiter": DELIMITER[:4],
    "undefined length": DELIMITER[:4] + b"\xff" * 4,
    "delimiter of an item": struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
    "trailing padding": struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4),
}


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("end", ENDS)
def test_something_else_in_place_of_the_delimiter(syntax: str, end: str) -> None:
    unchanged(syntax, encapsulated(FRAMES[syntax], end=ENDS[end]))


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_zeros_in_place_of_the_frame_are_no_frame(syntax: str) -> None:
    """As in a file that was preallocated and not filled."""
    frame = FRAMES[syntax]
    for items in (encapsulated(end=bytes(2000)), encapsulated(frame[: len(frame) // 4 * 2], end=bytes(2000))):
        with pytest.raises((errors.TruncatedPixels, errors.DecodeFailed)):
            shown(with_pixel_data(BASE[syntax], items))


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_empty_fragments(syntax: str) -> None:
    frame = FRAMES[syntax]
    unchanged(syntax, encapsulated(frame, b""))
    unchanged(syntax, encapsulated(b"", frame, b"", b""))


def test_pixel_data_that_contradicts_the_transfer_syntax_has_a_name() -> None:
    with pytest.raises(errors.BrokenHeader, match="encapsulated"):
        shown(with_transfer_syntax(BASE["jpeg-lossless-sv1"], phantoms.TRANSFER_SYNTAXES["explicit"]))
    with pytest.raises(errors.BrokenHeader, match="encapsulated"):
        shown(with_transfer_syntax(EXPLICIT, phantoms.TRANSFER_SYNTAXES["jpeg-ls"]))


def test_a_data_set_is_read_as_it_is_and_not_as_the_meta_information_states() -> None:
    shown(with_transfer_syntax(EXPLICIT, phantoms.IMPLICIT_LITTLE))
    shown(with_transfer_syntax(phantoms.to_dicom(FILM, Encoding("implicit")), phantoms.TRANSFER_SYNTAXES["explicit"]))


def test_a_jpeg_without_end_is_truncated() -> None:
    for syntax in ("jpeg-baseline", "jpeg-lossless-sv1", "jpeg-ls"):
        frame = FRAMES[syntax].rstrip(b"\0")[:-2]
        with pytest.raises(errors.TruncatedPixels):
            shown(with_pixel_data(BASE[syntax], encapsulated(even(frame))))
    with pytest.raises(errors.TruncatedPixels):
        shown(phantoms.to_jpeg(FILM)[:-2])


def test_a_jpeg_with_other_samples_than_the_header_has_a_name() -> None:
    frame = phantoms.to_jpeg(np.stack([FILM] * 3, -1))
    with pytest.raises(errors.BrokenHeader, match="3 samples"):
        shown(with_pixel_data(BASE["jpeg-baseline"], encapsulated(even(frame))))


@pytest.mark.parametrize("syntax", ["jpeg-2000-lossless", "jpeg-ls", "jpeg-lossless-sv1"])
def test_eight_bits_in_sixteen_allocated(syntax: str) -> None:
    data = BASE[syntax]
    at = data.index(b"\x28\x00\x00\x01US\x02\x00") + 8
    shown(data[:at] + b"\x10\0" + data[at + 2 :])


def test_jpeg_2000_that_states_no_sign() -> None:
    encoding = Encoding("jpeg-2000-lossless", bits=13, signed=True)
    signed = np.floor(FILM / 255 * 8191 + 0.5).astype(np.int16) - 4096
    unsigned = signed.view(np.uint16) & 0x1FFF
    options = {"bits_stored": 13, "photometric_interpretation": 2, "compression_ratios": None}
    frame = bytes(encode_array(unsigned, use_mct=False, **options))
    shown(with_pixel_data(phantoms.to_dicom(FILM, encoding), encapsulated(even(frame))))


# --------------------------------------------------------------------------- value representations


def invalid(vr: bytes, value: bytes, form: str, order: str = "<", tag: tuple[int, int] = (0x29, 0x1002)) -> bytes:
    """Write an element with an invalid VR: ``short`` or ``long`` length, or ``implicit`` without VR."""
    head = struct.pack(f"{order}HH", *tag)
    if form == "implicit":
        return head + struct.pack(f"{order}I", len(value)) + value
    length = struct.pack(f"{order}H", len(value)) if form == "short" else struct.pack(f"{order}HI", 0, len(value))
    return head + vr + length + value


@pytest.mark.parametrize("form", ["short", "long", "implicit"])
@pytest.mark.parametrize("vr", [b"  ", b"\0\0", b"??", b"--", b"ZZ", b"ob", b"O ", b"\xff\xff", b"12"])
@pytest.mark.parametrize("value", [b"", b"abcdef", bytes(20), b"SHLO" * 4, bytes(range(256))], ids=len)
def test_a_private_element_with_an_invalid_vr_is_skipped(form: str, vr: bytes, value: bytes) -> None:
    once = invalid(vr, value, form)
    again = invalid(vr, value, form, tag=(0x29, 0x1003)) + invalid(vr, value, form, tag=(0x31, 0x10))
    for elements in (once, once + again, once * 3):
        shown(before_pixel_data(EXPLICIT, CREATOR + elements))


@given(vr=st.binary(min_size=2, max_size=2), value=st.binary(max_size=40), later=st.booleans())
def test_any_vr_of_a_private_element(vr: bytes, value: bytes, *, later: bool) -> None:
    if vr in VRS:
        return
    value += b"\0" * (len(value) % 2)
    elements = invalid(vr, value, "short") + invalid(vr, value, "short", tag=(0x29, 0x1004)) * later
    shown(before_pixel_data(EXPLICIT, CREATOR + elements))


@pytest.mark.parametrize("vr", [b"  ", b"\0\0", b"??"])
def test_a_standard_element_with_an_invalid_vr_is_read(vr: bytes) -> None:
    data = EXPLICIT
    for tag, proper in (((0x28, 0x10), b"US"), ((0x10, 0x20), b"LO"), ((0x28, 0x1050), b"DS")):
        at = data.index(struct.pack("<HH", *tag) + proper)
        data = data[: at + 4] + vr + data[at + 6 :]
    shown(data)
    assert read_image_header(data).identity.patient_id == "PHANTOM-0000"


def test_the_first_element_with_an_invalid_vr_does_not_make_a_data_set_implicit() -> None:
    at = EXPLICIT.index(b"\x08\0\x16\0UI")
    shown(EXPLICIT[: at + 4] + b"  " + EXPLICIT[at + 6 :])


@pytest.mark.parametrize("syntax", ["explicit", "jpeg-ls"])
@pytest.mark.parametrize("vr", [b"  ", b"??"])
def test_pixel_data_with_an_invalid_vr_is_read(syntax: str, vr: bytes) -> None:
    data = EXPLICIT if syntax == "explicit" else BASE[syntax]
    at = data.index(b"\xe0\x7f\x10\0O")
    shown(data[: at + 4] + vr + data[at + 6 :])


def test_an_item_with_an_invalid_vr_is_skipped() -> None:
    for form in ("short", "long"):
        inner = struct.pack("<HH2sH", 9, 0x10, b"LO", 4) + b"ACME" + invalid(b"  ", b"abcd", form, tag=(9, 0x1001))
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        sequence = struct.pack("<HH2sHI", 0x29, 0x1010, b"SQ", 0, len(item)) + item
        shown(before_pixel_data(EXPLICIT, CREATOR + sequence))
        open_end = struct.pack("<HH2sHI", 0x29, 0x1010, b"SQ", 0, 0xFFFFFFFF) + item + DELIMITER
        shown(before_pixel_data(EXPLICIT, CREATOR + open_end))


# --------------------------------------------------------------------------- sequences of unknown VR


def unknown_sequence(order: str, *, inner: str, nested: bool, vr: bytes = b"UN") -> bytes:
    """Write a private sequence of undefined length as UN (PS3.5 6.2.2: implicit VR little endian within).

    Args:
        order: byte order of the Data Set.
        inner: byte order of the sequence; another than little endian is a writer's fault.
        nested: it holds another one.
    """
    code = struct.pack(f"{inner}HHI", 0x0008, 0x0100, 4) + b"ABCD"
    end, ended = struct.pack(f"{inner}HHI", 0xFFFE, 0xE00D, 0), struct.pack(f"{inner}HHI", 0xFFFE, 0xE0DD, 0)
    item = struct.pack(f"{inner}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    within = struct.pack(f"{inner}HHI", 0x0029, 0x1002, 0xFFFFFFFF) + item + code + end + ended if nested else b""
    head = struct.pack(f"{order}HH2sH", 0x29, 0x10, b"LO", 8) + b"ACME 1.0"
    return head + struct.pack(f"{order}HH2sHI", 0x29, 0x1001, vr, 0, 0xFFFFFFFF) + item + code + within + end + ended


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("inner", ["<", ">"])
@pytest.mark.parametrize("vr", [b"UN", b"  "])
def test_a_sequence_of_unknown_vr_is_skipped(inner: str, vr: bytes, *, nested: bool) -> None:
    data = phantoms.to_dicom(FILM, Encoding("big-endian"))
    at = data.index(b"\x7f\xe0\x00\x10OW")
    shown(data[:at] + unknown_sequence(">", inner=inner, nested=nested, vr=vr) + data[at:])
    if inner == "<":
        shown(before_pixel_data(EXPLICIT, unknown_sequence("<", inner="<", nested=nested, vr=vr)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_sequence_of_unknown_vr_is_used(order: str) -> None:
    """A View Code Sequence (0054,0220) that an archive did not know."""
    data = phantoms.to_dicom(FILM, Encoding("explicit" if order == "<" else "big-endian"))
    code = struct.pack("<HHI", 0x0008, 0x0100, 8) + b"R-10206 "
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(code)) + code
    raw = struct.pack(f"{order}HH2sHI", 0x54, 0x220, b"UN", 0, 0xFFFFFFFF) + item + DELIMITER
    at = data.index(struct.pack(f"{order}HH", 0x7FE0, 0x10))
    extended = data[:at] + raw + data[at:]
    assert read_image_header(extended).view_codes == ("r-10206",)
    shown(extended)


# --------------------------------------------------------------------------- preamble


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
@pytest.mark.parametrize(
    "last", ["A" * 8 + "DICM", "A" * 8 + "DICMBC", "A" * 8 + "DICM\\B", "A" * 8 + "DICM\\" + "B" * 13]
)
def test_a_prefix_by_chance_is_no_preamble(syntax: str, last: str) -> None:
    """At the end of the first value, so that an element begins where one does after a preamble, and within it."""
    kind = [*["X" * 15] * 7, *last.split("\\")]
    data = phantoms.to_dicom(FILM, Encoding(syntax, preamble=False), ImageType=kind)
    assert data[128:132] == b"DICM"
    shown(data)
    assert read_image_header(data).identity.patient_id == "PHANTOM-0000"


def test_a_prefix_within_the_meta_information_is_no_preamble() -> None:
    """Meta information without preamble, which holds DICM at byte 128."""
    bare = EXPLICIT[132:]
    version = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 108) + bytes(104) + b"DICM"
    data = bare[:12] + version + bare[12:]
    assert data[128:132] == b"DICM"
    shown(data)


@given(st.binary(min_size=128, max_size=128))
def test_any_preamble(preamble: bytes) -> None:
    shown(preamble + EXPLICIT[128:])


def test_a_data_set_as_preamble_does_not_hide_the_file() -> None:
    """A file with both is what the prefix and the meta information say (PS3.10 7.1)."""
    other = phantoms.to_dicom(FILM, Encoding(preamble=False), PatientID="OTHER")
    assert read_image_header(other[:128] + EXPLICIT[128:]).identity.patient_id == "PHANTOM-0000"


# --------------------------------------------------------------------------- colour, padding, tables


def colour(values: np.ndarray, **elements: Any) -> bytes:
    described: dict[str, Any] = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    return native(values, Rows=FILM.shape[0], Columns=FILM.shape[1], **{**described, **elements})


def test_full_samples_under_a_subsampled_colour_space() -> None:
    neutral = np.full_like(FILM, 128)
    for channels in ((FILM, FILM, FILM), (FILM, neutral, neutral)):
        assert shown(colour(np.stack(channels, -1).reshape(len(FILM), -1), PlanarConfiguration=0)) == ()
        assert shown(colour(np.stack(channels).reshape(len(FILM), -1), PlanarConfiguration=1)) == ()
    padded = np.concatenate([np.stack([FILM] * 3, -1).reshape(-1), np.zeros(514, np.uint8)]).reshape(1, -1)
    assert shown(colour(padded, PlanarConfiguration=0)) == ()


def test_subsampled_colour_is_read_as_before() -> None:
    quads = np.full((len(FILM), FILM.shape[1] // 2, 4), 128, np.uint8)
    quads[:, :, 0], quads[:, :, 1] = FILM[:, 0::2], FILM[:, 1::2]
    for behind in (0, 2, 512):
        flat = np.concatenate([quads.reshape(-1), np.zeros(behind, np.uint8)]).reshape(1, -1)
        assert shown(colour(flat, PlanarConfiguration=0)) == ()


TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2048", "WindowWidth": "4096"}


@pytest.mark.parametrize(
    "value, limit",
    [(0, 65535), (65535, None), (65535, 0), (65535, 65535), (40000, 50000), (4096, None), (4096, 65535), (0, 4095)],
)
def test_padding_beyond_the_stored_bits_covers_nothing_else(value: int, limit: int | None) -> None:
    elements = {**TWELVE, "PixelPaddingValue": value}
    if limit is not None:
        elements["PixelPaddingRangeLimit"] = limit
    shown(native(twelve_bits(), **elements))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("word", [0xFFFF, 0x8000, 0x1FFF])
def test_words_of_padding_beyond_the_stored_bits_are_black(word: int, *, signed: bool) -> None:
    if signed and word == 0xFFFF:
        word = 0x7FFF  # otherwise it is -1, which the stored bits hold
    values = np.clip(twelve_bits(), 4, 4000)
    if signed:
        values = (values.astype(np.int16) - 2048).view(np.uint16) & 0xFFF
    values[:, :10] = word
    window = {"WindowCenter": "0"} if signed else {}
    elements = {**TWELVE, **window, "PixelRepresentation": int(signed), "PhotometricInterpretation": "MONOCHROME1"}
    pixels = decode_radiograph(read_image_header(native(values, **elements, PixelPaddingValue=word))).pixels
    assert not pixels[:, :10].any()
    assert int(np.abs(pixels[:, 10:] - (255.0 - FILM[:, 10:])).max()) <= 7


def test_a_range_that_ends_beyond_the_stored_bits_begins_where_it_says() -> None:
    values = twelve_bits()
    values[:, :10] = 4090
    header = read_image_header(native(values, **TWELVE, PixelPaddingValue=4090, PixelPaddingRangeLimit=65535))
    assert not decode_radiograph(header).pixels[:, :10].any()


@pytest.mark.parametrize("written", [-2048, 2048, 63488])
def test_signed_padding_is_found_however_it_is_written(written: int) -> None:
    values = (twelve_bits().astype(np.int16) - 2048).clip(-2000, None)
    values[:, :10] = -2048
    window = {"WindowCenter": "0", "WindowWidth": "4096", "PhotometricInterpretation": "MONOCHROME1"}
    padding = {"PixelPaddingValue": written & 0xFFFF}
    header = read_image_header(native(values, BitsStored=12, HighBit=11, **window, **padding))
    assert not decode_radiograph(header).pixels[:, :10].any()


def table(values: np.ndarray, first: int, bits: int, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) & 0xFFFF, first & 0xFFFF, bits])
    content: Any = (
        values.astype("<u2").tobytes() if vr == "OW" else [int(v) for v in values.astype(np.uint16).view(np.int16)]
    )
    item.add_new("LUTData", vr, content)
    return item


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.464, 0.2])
def test_a_voi_lut_is_scaled_by_its_declared_bits(bits: int, share: float) -> None:
    top = (1 << bits) - 1
    entries = np.floor(np.arange(4096) * (top * share / 4095) + 0.5)
    header = read_image_header(
        native(twelve_bits(), BitsStored=12, HighBit=11, VOILUTSequence=[table(entries, 0, bits)])
    )
    expected = np.floor(FILM * share + 0.5)
    assert int(np.abs(decode_radiograph(header).pixels - expected).max()) <= 1


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_voi_lut_that_declares_its_words_is_scaled_by_its_top(bits: int) -> None:
    """Agfa and GE declare 16 bits for tables of fewer."""
    entries = np.floor(np.arange(4096) * (((1 << bits) - 1) / 4095) + 0.5)
    shown(native(twelve_bits(), BitsStored=12, HighBit=11, VOILUTSequence=[table(entries, 0, 16)]))


def test_a_voi_lut_whose_first_value_is_above_32767() -> None:
    values = (np.floor(FILM / 255 * 20000 + 0.5) + 40000).astype(np.uint16)
    entries = np.floor(np.arange(20001) / 20000 * 65535 + 0.5)
    shown(native(values, VOILUTSequence=[table(entries, 40000, 16)]))


def test_a_modality_lut_written_with_a_sign() -> None:
    entries = np.floor(np.arange(4096) / 4095 * 65535 + 0.5)
    lut = table(entries, 0, 16, vr="SS")
    lut.ModalityLUTType = "US"
    window = {"WindowCenter": "32768", "WindowWidth": "65536"}
    shown(native(twelve_bits(), BitsStored=12, HighBit=11, ModalityLUTSequence=[lut], **window))


# --------------------------------------------------------------------------- JPEG and PNG files


DEEP: dict[str, Callable[[np.ndarray], bytes]] = {
    "extended": lambda values: bytes(imagecodecs.jpeg8_encode(values, level=100, bitspersample=12)),
    "under the marker of 8 bits": lambda values: bytes(
        imagecodecs.jpeg8_encode(values, level=100, bitspersample=12)
    ).replace(b"\xff\xc1", b"\xff\xc0", 1),
    "lossless": lambda values: bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12)),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("colours", [1, 3])
def test_a_jpeg_file_of_twelve_bits(name: str, colours: int) -> None:
    values = twelve_bits() if colours == 1 else np.dstack([twelve_bits()] * 3)
    data = DEEP[name](values)
    assert shown(data, 2) == ()
    exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
    turned = DEEP[name](np.ascontiguousarray(values[::-1, ::-1]))
    shown(turned[:2] + exif + turned[2:], 2)


@pytest.mark.parametrize("bits", [9, 10, 14, 16])
def test_a_lossless_jpeg_file_of_other_bits(bits: int) -> None:
    values = np.floor(FILM / 255 * ((1 << bits) - 1) + 0.5).astype(np.uint16)
    shown(bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=bits)))


def test_a_jpeg_file_of_twelve_bits_in_colour_or_damaged_has_a_name() -> None:
    values = np.dstack([twelve_bits(), twelve_bits()[::-1], twelve_bits()])
    with pytest.raises(errors.ColourNotGrey):
        shown(DEEP["extended"](values))
    whole = DEEP["extended"](twelve_bits())
    for share in (0.3, 0.7, 0.99):
        with pytest.raises((errors.BrokenHeader, errors.TruncatedPixels)):
            shown(whole[: int(share * len(whole))])


def test_a_transparent_palette_is_looked_up() -> None:
    """Turned round, so that an index taken for a grey level would show."""
    image = Image.new("P", FILM.shape[::-1])
    image.putdata((255 - FILM).ravel().tolist())
    image.putpalette([level for index in range(256) for level in [255 - index] * 3])
    for options in ({}, {"transparency": bytes([0] + [255] * 255)}):
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        shown(stream.getvalue(), 0)


# --------------------------------------------------------------------------- each kind with bad input besides


def padded_rle(data: bytes) -> bytes:
    """Pad each segment with a blank."""
    segments = [segment + b" " for segment in split_rle_frame(frame_of(data), 2)]
    header = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13)
    return with_pixel_data(data, encapsulated(even(header + b"".join(segments))))


def padded_jpeg_ls(data: bytes) -> bytes:
    frame = frame_of(data).rstrip(b"\0")
    return with_pixel_data(data, encapsulated(even(frame[:-2] + b"\0" + frame[-2:])))


def with_entry_for_the_end(data: bytes) -> bytes:
    frame = frame_of(data)
    return with_pixel_data(data, encapsulated(frame, table=offsets(0, len(frame) + 8)))


def without_delimiter(data: bytes) -> bytes:
    return with_pixel_data(data, encapsulated(frame_of(data), end=bytes(64)))


KINDS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "RLE with blanks": ("rle", padded_rle),
    "JPEG-LS with a zero": ("jpeg-ls", padded_jpeg_ls),
    "offset table": ("jpeg-lossless-sv1", with_entry_for_the_end),
    "no delimiter": ("jpeg-2000-lossless", without_delimiter),
    "invalid VR": ("explicit", lambda data: before_pixel_data(data, CREATOR + invalid(b"  ", b"abcdef", "short"))),
    "unknown sequence": (
        "explicit",
        lambda data: before_pixel_data(data, unknown_sequence("<", inner="<", nested=True)),
    ),
    "other meta information": ("explicit", lambda data: with_transfer_syntax(data, phantoms.IMPLICIT_LITTLE)),
}
FULL: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096"}
WIDE = np.minimum(np.arange(65536) * 65535 // 4095, 65535)
BAD: dict[str, tuple[dict[str, Any], tuple[Caveat, ...]]] = {
    "nothing": (FULL, ()),
    "slope 0": ({**FULL, "RescaleSlope": "0", "RescaleIntercept": "7"}, (Caveat.RESCALE_IGNORED,)),
    "width 0": ({**FULL, "WindowWidth": "0"}, (Caveat.NO_WINDOW,)),
    "negative width": ({**FULL, "WindowWidth": "-5"}, (Caveat.NO_WINDOW,)),
    "width that is no number": ({**FULL, "WindowWidth": "nan"}, (Caveat.NO_WINDOW,)),
    "center that is no number": ({**FULL, "WindowCenter": "inf"}, (Caveat.NO_WINDOW,)),
    "65536 entries": ({"VOILUTSequence": [table(WIDE, 0, 16)]}, ()),
}


def of_kind(kind: str, photometric: str, elements: dict[str, Any]) -> bytes:
    syntax, damage = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return damage(phantoms.to_dicom(FILM, Encoding(syntax, photometric, bits=12, voi="none"), **elements))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bad", BAD)
def test_each_kind_with_a_header_that_is_wrong_besides(kind: str, photometric: str, bad: str) -> None:
    elements, caveats = BAD[bad]
    assert shown(of_kind(kind, photometric, elements)) == caveats


@given(kind=st.sampled_from(sorted(KINDS)), share=st.floats(0, 1, exclude_max=True))
def test_each_kind_that_breaks_off_has_a_name(kind: str, share: float) -> None:
    data = of_kind(kind, "MONOCHROME2", FULL)
    # what follows the frame may be missing: the delimiter, and a byte of padding
    end = len(data) - (0 if KINDS[kind][0] == "explicit" else 66)
    with pytest.raises(tuple(errors.UnreadableError.__subclasses__())):  # each with a code of its own
        decode_radiograph(read_image_header(data[: int(share * end)]))
