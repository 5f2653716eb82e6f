"""The elements of a header: what pydicom reads of them, in linear time, and no more than a radiograph holds."""

from __future__ import annotations

import gc
import io
import struct
import sys
import zlib
from collections.abc import Callable
from types import FrameType

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from preread.core.errors import BrokenHeader, NoPixels, UnreadableError
from preread.imaging import data_set, elements
from preread.imaging.dicom_file import parse_dicom_file
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

FILM = phantoms.draw_chest(1, rows=32, columns=32)
FILMS = {name: phantoms.to_dicom(FILM, encoding) for name, encoding in phantoms.list_encodings()}
BASE = phantoms.to_dicom(FILM)
CUT = BASE.index(struct.pack("<HH", 0x7FE0, 0x10))
UNDEFINED = 0xFFFFFFFF
ENCODINGS = {ImplicitVRLittleEndian: (True, True), ExplicitVRLittleEndian: (False, True)}
ENCODINGS[ExplicitVRBigEndian] = (False, False)


def item(length: int = UNDEFINED, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, length)


def sequence(
    length: int = UNDEFINED, vr: bytes = b"SQ", tag: tuple[int, int] = (0x40, 0xA730), order: str = "<"
) -> bytes:
    return struct.pack(f"{order}HH2sHI", *tag, vr, 0, length)


def element(content: bytes = b"", vr: bytes = b"SH", tag: tuple[int, int] = (0x11, 0x1000)) -> bytes:
    return struct.pack("<HH2sH", *tag, vr, len(content)) + content


ITEM_END, SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def with_header(extra: bytes) -> bytes:
    return BASE[:CUT] + extra + BASE[CUT:]


def big_endian(extra: bytes) -> bytes:
    data = phantoms.to_dicom(FILM, Encoding("big-endian"))
    meta = data.index(b"1.2.840.10008.1.2.2") + 20
    return data[:meta] + extra + data[meta:]


def deflated(extra: bytes) -> bytes:
    data = phantoms.to_dicom(FILM, Encoding("deflated"))
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = zlib.decompressobj(-15).decompress(data[start:])
    return data[:start] + packer.compress(extra) + packer.compress(body) + packer.flush()


# --------------------------------------------------------------------------- the same elements as pydicom's


def as_text(dataset: Dataset) -> str:
    return dataset.to_json(suppress_invalid_tags=True)


@pytest.mark.parametrize("name", sorted(FILMS))
def test_a_film_has_the_elements_that_pydicom_reads(name: str) -> None:
    theirs = pydicom.dcmread(io.BytesIO(FILMS[name]))
    del theirs.PixelData
    assert as_text(parse_dicom_file(FILMS[name], 10_000_000).dataset) == as_text(theirs)


TEXTS = st.text("ABC xyzäß漢", max_size=12)


def datasets(depth: int) -> st.SearchStrategy[Dataset]:
    fields: dict[str, st.SearchStrategy[object]] = {
        "PatientName": TEXTS,
        "PatientID": TEXTS,
        "SeriesDescription": TEXTS,
        "Rows": st.integers(0, 65535),
        "WindowCenter": st.lists(st.integers(-999, 999), min_size=1, max_size=3),
        "LUTData": st.binary(max_size=30).map(lambda value: value + bytes(len(value) % 2)),
    }
    if depth:
        for keyword in ("ViewCodeSequence", "VOILUTSequence", "AnatomicRegionSequence"):
            fields[keyword] = st.lists(datasets(depth - 1), max_size=3)
    return st.fixed_dictionaries({}, optional=fields).map(made)


def made(fields: dict[str, object]) -> Dataset:
    dataset = Dataset()
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
        if keyword == "LUTData":
            dataset[keyword].VR = "OW"
    return dataset


def open_ended(dataset: Dataset, *, sequences: bool, items: bool) -> None:
    for one in dataset:
        if one.VR == "SQ":
            one.is_undefined_length = sequences
            for inner in one.value:
                inner.is_undefined_length_sequence_item = items
                open_ended(inner, sequences=sequences, items=items)


@settings(max_examples=60)
@given(
    dataset=datasets(2),
    syntax=st.sampled_from(sorted(ENCODINGS)),
    sequences=st.booleans(),
    items=st.booleans(),
    charset=st.sampled_from(["ISO_IR 192", "GB18030"]),
)
def test_any_data_set_has_the_elements_that_pydicom_reads(
    dataset: Dataset, syntax: str, charset: str, *, sequences: bool, items: bool
) -> None:
    dataset.SpecificCharacterSet = charset
    open_ended(dataset, sequences=sequences, items=items)
    implicit, little = ENCODINGS[pydicom.uid.UID(syntax)]
    stream = io.BytesIO()
    dataset.file_meta = FileMetaDataset()
    pydicom.dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little)
    body = stream.getvalue()
    theirs = read_dataset(io.BytesIO(body), implicit, little)
    ours, span = data_set.parse_data_set(body, 0, implicit=implicit, little=little)
    assert span is None
    assert as_text(ours) == as_text(theirs)


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_end_well(body: bytes, implicit: bool, little: bool) -> None:
    try:
        data_set.parse_data_set(body, 0, implicit=implicit, little=little)
    except BrokenHeader:
        return
    except struct.error:  # a header of an element that breaks off: parse names it
        return


# --------------------------------------------------------------------------- counted and bounded


def repeated(count: int) -> bytes:
    return b"".join(element(tag=(0x11 + 2 * (n // 0xE000), 0x1000 + n % 0xE000)) for n in range(count))


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "elements": lambda n: with_header(repeated(n)),
    "elements, one tag": lambda n: with_header(element() * n),
    "elements, deflated": lambda n: deflated(repeated(n)),
    "items in a row": lambda n: with_header(sequence() + item() * n),
    "items in a row, deflated": lambda n: deflated(sequence() + item() * n),
    "items in a row, big-endian": lambda n: big_endian(sequence(order=">") + item(order=">") * n),
    "items in a row, in the other order": lambda n: big_endian(sequence() + item() * n),
    "items in a row, in the other order within": lambda n: big_endian(sequence(order=">") + item() * n),
    "items in a row, unknown": lambda n: with_header(sequence(vr=b"UN") + item() * n),
    "items in a row, private": lambda n: with_header(sequence(vr=b"UN", tag=(0x11, 0x1001)) + item() * n),
    "items in a row, octets": lambda n: with_header(sequence(vr=b"OB", tag=(0x11, 0x1001)) + item() * n),
    "nested": lambda n: with_header((sequence() + item()) * n),
    "nested, private": lambda n: with_header((sequence(vr=b"UN", tag=(0x11, 0x1001)) + item()) * n),
    "nested and ended": lambda n: with_header((sequence() + item()) * n + (ITEM_END + SEQUENCE_END) * n),
    "octets without end": lambda n: with_header(sequence(vr=b"OB", tag=(0x11, 0x1001)) * n),
    "octets without end in items": lambda n: with_header(
        sequence() + (item() + sequence(vr=b"OW", tag=(0x11, 0x1001))) * n
    ),
    "octets that end far away": lambda n: with_header(
        sequence(vr=b"OB", tag=(0x11, 0x1001)) + bytes(8) * n + SEQUENCE_END
    ),
    "empty items": lambda n: with_header(sequence(8 * n) + item(0) * n),
    "empty items that are read": lambda n: with_header(sequence(8 * n, tag=(0x54, 0x220)) + item(0) * n),
    "sequences that hold more than they say": lambda n: with_header(
        (sequence(24, tag=(0x11, 0x1001)) + item(16) + sequence(tag=(0x11, 0x1001))) * n
    ),
    "a number of many values": lambda n: with_header(sequence(2 * n, vr=b"UN", tag=(0x28, 0x1050)) + b"1\\" * n),
    "a name of many values": lambda n: with_header(sequence(2 * n, vr=b"UC", tag=(0x10, 0x20)) + b"a\\" * n),
    "invalid VRs": lambda n: with_header(
        b"".join(element(b"ab", b"  ", (0x11, 0x1000 + k % 0xE000)) for k in range(n))
    ),
    "invalid VRs, one tag": lambda n: with_header(element(b"", b"??") * n),
    "invalid VRs in items": lambda n: with_header(sequence() + item() + element(b"abcdef", b"\0\0") * n),
    "invalid VRs that fit nowhere": lambda n: with_header(b"\x11\0\0\x10\xfe\xfe\xfe\xfe" * n),
    "items in a row, in the other order, unknown": lambda n: big_endian(sequence(vr=b"UN", order=">") + item() * n),
    "meta elements": lambda n: BASE[:132] + element(tag=(2, 0x200)) * n + BASE[132:],
    "a code of many values": lambda n: with_header(
        sequence(20 + 2 * n, tag=(0x54, 0x220))
        + item(12 + 2 * n)
        + struct.pack("<HH2sHI", 8, 0x100, b"UC", 0, 2 * n)
        + b"a\\" * n
    ),
}


def effort(data: bytes) -> int:
    """Read the header, and count what that calls."""
    calls = 0

    def seen(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    gc.disable()  # hypothesis is called at each collection
    sys.setprofile(seen)
    try:
        read_image_header(data)
    except UnreadableError:
        pass
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_is_read_in_linear_time(name: str) -> None:
    """Calls, and bytes that are searched, at most double where the header does."""
    once, twice = (effort(HOSTILE[name](n)) for n in (3_000, 6_000))
    assert twice <= 2.2 * once


@pytest.mark.parametrize("name", HOSTILE)
def test_a_large_header_ends_after_so_many_elements(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits, a larger one costs no more."""
    monkeypatch.setattr(data_set, "PIECES_MAX", 20_000)
    large, larger = (effort(HOSTILE[name](n)) for n in (530_000, 600_000))
    assert larger <= large + 100


class Searched(bytes):
    """Bytes that know how far they were searched."""

    far = 0

    def find(self, what: bytes, start: int = 0) -> int:  # type: ignore[override]
        found = super().find(what, start)
        type(self).far += (found if found >= 0 else len(self)) - start
        return found


@pytest.mark.parametrize("ended", [b"", SEQUENCE_END])
def test_an_end_is_searched_once(ended: bytes) -> None:
    octets = struct.pack("<HH2sHI", 0x11, 0x1001, b"OB", 0, UNDEFINED)
    body = Searched((sequence() + (item() + octets) * 500 + bytes(90_000) + ended) * 3)
    Searched.far = 0
    with pytest.raises(BrokenHeader):
        data_set.parse_data_set(body, 0, implicit=False, little=True)
    assert Searched.far <= len(body)


def test_elements_are_counted() -> None:
    own = len(parse_dicom_file(BASE, 10_000_000).dataset)
    read_image_header(with_header(repeated(data_set.ELEMENTS_MAX - own)))
    for film in (with_header, deflated):
        with pytest.raises(BrokenHeader, match="20000 elements"):
            read_image_header(film(repeated(data_set.ELEMENTS_MAX - own + 1)))


def test_items_are_counted_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_set, "PIECES_MAX", 30_000)
    for open_end in (True, False):
        count = data_set.PIECES_MAX + 1
        extra = sequence() + item(0) * count + SEQUENCE_END if open_end else sequence(8 * count) + item(0) * count
        with pytest.raises(BrokenHeader, match="30000 elements"):
            read_image_header(with_header(extra))


def test_sequences_nest_only_so_deeply() -> None:
    def nested(depth: int) -> bytes:
        return with_header((sequence() + item()) * depth + (ITEM_END + SEQUENCE_END) * depth)

    assert decode_radiograph(read_image_header(nested(data_set.DEPTH_MAX))).pixels.shape == FILM.shape
    with pytest.raises(BrokenHeader, match="64 levels"):
        read_image_header(nested(data_set.DEPTH_MAX + 1))


def test_a_sequence_that_is_damaged_or_too_large_counts_as_missing() -> None:
    code = element(b"R-10206", b"SH", (8, 0x100)) + element(b"PA ", b"LO", (8, 0x104))
    whole = item(len(code)) + code
    tag = (0x54, 0x220)
    assert read_image_header(with_header(sequence(len(whole), tag=tag) + whole)).view_codes == ("r-10206", "pa")
    for content in (whole[:-1], whole * 1000, whole + item(2_000_000) + element() * 250_000, b"\0" * 16):
        header = read_image_header(with_header(sequence(len(content), tag=tag) + content))
        assert header.view_codes == ()
        assert decode_radiograph(header).pixels.shape == FILM.shape


@pytest.mark.parametrize("octets", [b"OB", b"OW", b"UN"])
def test_octets_of_undefined_length_are_stepped_over(octets: bytes) -> None:
    private = sequence(vr=octets, tag=(0x29, 0x1001)) + item(4) + (b"abcd" if octets != b"UN" else b"") * 1
    if octets == b"UN":
        private = sequence(vr=octets, tag=(0x29, 0x1001)) + item() + ITEM_END
    assert decode_radiograph(read_image_header(with_header(private + SEQUENCE_END))).pixels.shape == FILM.shape


@given(st.integers(132, CUT))
def test_a_header_that_breaks_off_has_a_name(at: int) -> None:
    with pytest.raises((BrokenHeader, NoPixels)):
        decode_radiograph(read_image_header(BASE[:at]))


@pytest.mark.parametrize(
    "keyword, read, longest",
    [("PatientName", elements.read_text, "x" * 1024), ("StudyInstanceUID", elements.read_uid, "1." * 31 + "12")],
)
def test_a_text_or_uid_of_the_greatest_length_is_read_and_a_longer_one_is_not(
    keyword: str, read: Callable[[Dataset, str], str | None], longest: str
) -> None:
    for value, expected in ((longest, longest), (f"{longest}3", None)):
        with elements.suppress_parser_warnings():
            dataset = Dataset()
            setattr(dataset, keyword, value)
            assert read(dataset, keyword) == expected
