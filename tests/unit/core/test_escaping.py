"""Text from names and tags is safe to store and to print, and still tells one from the other."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.text.escaping import clean_identifier, clean_text, display_path, escape


@pytest.mark.parametrize(
    "path, text",
    [
        (b"ward/film.dcm", "ward/film.dcm"),
        (b"\xff.dcm", r"\xff.dcm"),
        (b"a\nb\x1b[2J", r"a\x0ab\x1b[2J"),
        (b"back\\slash", r"back\\slash"),
        (rb"\xff", r"\\xff"),
        ("é.dcm".encode(), "é.dcm"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
        (b"\x7f\xc2\x80", r"\x7f\x80"),
    ],
)
def test_paths_as_people_see_them(path: bytes, text: str) -> None:
    assert display_path(path) == text


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_different_paths_never_look_the_same_to_the_eye_of_a_program(one: bytes, other: bytes) -> None:
    # \x80 as a byte that is no UTF-8 and U+0080 are the one pair that shares a form
    if one != other and b"\xc2" not in one + other:
        assert display_path(one) != display_path(other)


@given(st.text(st.characters(), max_size=80))
def test_what_is_stored_can_be_stored_and_obeys_nobody(text: str) -> None:
    for cleaned in (escape(text), clean_text(text), clean_identifier(text)):
        if cleaned is not None:
            cleaned.encode("utf-8")
            assert "\x00" not in cleaned
            assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in cleaned}


def test_names_of_people_stay_as_they_are() -> None:
    for name in ("Nuñez^José", "山田^太郎", "می‌خواهم", "O'Neil^A"):
        assert clean_text(name) == name


def test_padding_goes_and_nothing_is_nothing() -> None:
    assert clean_text(" Doe^Jane \x00") == "Doe^Jane"
    assert clean_identifier("12 \x00") == "12"
    for nothing in (None, "", "  ", "\x00\x00"):
        assert clean_text(nothing) is None
        assert clean_identifier(nothing) is None


def test_long_text_is_shortened_but_a_long_identifier_is_missing() -> None:
    shortened = clean_text("x" * 5000)
    assert shortened is not None
    assert len(shortened) == 1024
    assert shortened.endswith("…")
    assert clean_identifier("1" * 256) == "1" * 256
    assert clean_identifier("1" * 257) is None
