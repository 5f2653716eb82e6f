"""Text with code extensions: the characters, and no escape sequence."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, encode_string
from pydicom.dataset import Dataset

from preread.core.text.code_extensions import decode_extended_text
from preread.imaging.data_set import find_codecs
from preread.imaging.radiograph import read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

FILM = phantoms.draw_chest(1, rows=32, columns=32)
PLAIN = Encoding()
# First term, escape sequence and codec of further terms: PS3.3 tables C.12-3 and C.12-4.
SETS = {
    "ISO 2022 IR 100": ("\\ISO 2022 IR 100", b"\x1b-A", "iso8859_1", "Müller"),
    "ISO 2022 IR 101": ("\\ISO 2022 IR 101", b"\x1b-B", "iso8859_2", "Wałęsa"),
    "ISO 2022 IR 109": ("\\ISO 2022 IR 109", b"\x1b-C", "iso8859_3", "Ħaġar"),
    "ISO 2022 IR 110": ("\\ISO 2022 IR 110", b"\x1b-D", "iso8859_4", "Bērziņš"),
    "ISO 2022 IR 126": ("\\ISO 2022 IR 126", b"\x1b-F", "iso8859_7", "Διονυσιος"),
    "ISO 2022 IR 127": ("\\ISO 2022 IR 127", b"\x1b-G", "iso8859_6", "قباني"),
    "ISO 2022 IR 138": ("\\ISO 2022 IR 138", b"\x1b-H", "iso8859_8", "שרון"),
    "ISO 2022 IR 144": ("\\ISO 2022 IR 144", b"\x1b-L", "iso8859_5", "Дмитрий"),
    "ISO 2022 IR 148": ("\\ISO 2022 IR 148", b"\x1b-M", "iso8859_9", "Çavuşoğlu"),
    "ISO 2022 IR 166": ("\\ISO 2022 IR 166", b"\x1b-T", "tis_620", "ประเทศ"),
    "ISO 2022 IR 203": ("\\ISO 2022 IR 203", b"\x1b-b", "iso8859_15", "Œuvré€Š"),
    "ISO 2022 IR 13": ("\\ISO 2022 IR 13", b"\x1b)I", "shift_jis", "ﾔﾏﾀﾞ"),
    "ISO 2022 IR 149": ("\\ISO 2022 IR 149", b"\x1b$)C", "euc_kr", "홍길동"),
    "ISO 2022 IR 58": ("\\ISO 2022 IR 58", b"\x1b$)A", "gb2312", "张试"),
    "ISO 2022 IR 87": ("\\ISO 2022 IR 87", b"\x1b$B", "iso2022_jp", "山田太郎"),
    "ISO 2022 IR 159": ("\\ISO 2022 IR 159", b"\x1b$(D", "iso2022_jp_2", "丂丄"),
}


def named(terms: str, name: bytes, encoding: Encoding = PLAIN) -> str | None:
    """Return the patient's name of a file with these bytes as term and name."""
    written = [value + b" " * (len(value) % 2) for value in (terms.encode(), name)]
    marks = [letter * len(value) for letter, value in zip((b"Q", b"Z"), written, strict=True)]
    data = phantoms.to_dicom(FILM, encoding, SpecificCharacterSet=None, PatientName=marks[1].decode())
    if terms:
        # pydicom would not write a term that it does not know
        element = phantoms.to_dicom(FILM, encoding, PatientID=None, PatientName=marks[1].decode(), ImageComments=None)
        vr = b"" if encoding.syntax == "implicit" else b"CS"
        length = len(written[0]).to_bytes(4 if not vr else 2, "little")
        at = element.index(b"\x08\x00\x16\x00")
        data = element[:at] + b"\x08\x00\x05\x00" + vr + length + written[0] + element[at:]
    assert data.count(marks[1]) == 1
    return read_image_header(data.replace(marks[1], written[1])).identity.patient_name


def coded(term: str, text: str) -> bytes:
    """Return text in a character set, after its escape sequence."""
    _, escape, codec, _ = SETS[term]
    written = text.encode(codec)
    return written.removesuffix(b"\x1b(B") if written.startswith(escape) else escape + written


@pytest.mark.parametrize("encoding", [Encoding(), Encoding("implicit")], ids=lambda e: e.syntax)
@pytest.mark.parametrize("term", SETS)
def test_a_name_has_no_escape_sequence(term: str, encoding: Encoding) -> None:
    terms, _, _, text = SETS[term]
    back = b"\x1b(B"
    name = b"Zhang^Test=" + coded(term, text) + back + b"^" + coded(term, text) + back
    assert named(terms, name, encoding) == f"Zhang^Test={text}^{text}"


def test_a_chinese_name_is_read() -> None:
    zhang, test = "张".encode("gb2312"), "试".encode("gb2312")
    assert named("\\ISO 2022 IR 58", b"Zhang^Test=\x1b$)A" + zhang + b"^\x1b$)A" + test) == "Zhang^Test=张^试"
    # some writers do not repeat the sequence after a delimiter
    assert named("\\ISO 2022 IR 58", b"Zhang^Test=\x1b$)A" + zhang + b"^" + test) == "Zhang^Test=张^试"


@pytest.mark.parametrize("terms", ["ISO_IR 203", "ISO-IR 203", "ISO 2022 IR 203"])
def test_latin_9_is_read(terms: str) -> None:
    assert named(terms, "Lefèvre^Œdipe €".encode("iso8859_15")) == "Lefèvre^Œdipe €"


@pytest.mark.parametrize(
    "terms, name, text",
    [  # PS3.5 annexes H and I
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
    ],
)
def test_the_examples_of_the_standard(terms: str, name: bytes, text: str) -> None:
    assert named(terms, name) == text


def test_the_first_set_is_active_again_after_a_delimiter() -> None:
    name = b"M\xfcller^\x1b-L" + "Юрий".encode("iso8859_5") + b"^\xdcnal"
    assert named("ISO 2022 IR 100\\ISO 2022 IR 144", name) == "Müller^Юрий^Ünal"


@pytest.mark.parametrize("terms", ["", "ISO_IR 100", "ISO_IR 192", "GB18030", "ISO 2022 IR 100\\ISO 2022 IR 87"])
def test_sequences_that_are_not_declared_do_not_stay(terms: str) -> None:
    for sequence in (b"\x1b$B", b"\x1b-Z", b"\x1b$)A\x1b%G", b"\x1b$)A"):
        name = named(terms, b"Doe" + sequence + b"\x1b(B^John")
        assert name == "Doe^John"


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(sorted(SETS)), st.integers(0, 40), st.sampled_from(["^", "=", " "])),
        min_size=1,
        max_size=6,
    )
)
def test_any_mixture_of_sets_is_read(parts: list[tuple[str, int, str]]) -> None:
    value, text = b"", ""
    for term, turn, delimiter in parts:
        written = SETS[term][3]
        turned = written[turn % len(written) :] + written[: turn % len(written)]
        value += coded(term, turned) + b"\x1b(B" + delimiter.encode()
        text += turned + delimiter
    assert decode_extended_text(value, "iso8859", is_name=True) == text


@given(st.binary(max_size=300), st.sampled_from(["iso8859", "latin_1", "UTF8", "GB18030", "euc_kr", "shift_jis"]))
def test_no_bytes_leave_an_escape_sequence(value: bytes, first: str) -> None:
    assert not re.search("\x1b[ -/]+[0-~]", decode_extended_text(value, first, is_name=True))


@given(st.text("abcÄÖÜß 漢字", max_size=40))
def test_text_that_pydicom_writes_is_read(text: str) -> None:
    terms = ["ISO 2022 IR 100", "ISO 2022 IR 87"]
    written = encode_string(text, convert_encodings(terms))
    assert decode_extended_text(written, find_codecs(terms)[0], is_name=False) == text


def test_a_code_meaning_has_no_escape_sequence() -> None:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "R-10206", "AP\x1b$)A"
    header = read_image_header(phantoms.to_dicom(FILM, ViewCodeSequence=[item]))
    assert header.view_codes == ("r-10206", "ap")
