"""Invisible characters are shown, lookalikes are marked, and names of people stay as they are."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.text.confusables import IdentifierWarning, identifier_warnings, printable, show_invisible
from preread.core.types import Identity

NAMES = [
    "Nuñez^José",
    unicodedata.normalize("NFD", "Müller^Jörg"),
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "山田^タロウ",
    "葛\U000e0100城^太郎",
    "می\u200cخواهم^علی",  # noqa: RUF001
    "क्\u200dष^राम",
    "홍^길동",
    "Иванов^Иван",
    "Παπαδόπουλος^Γιώργος",
    "O'Neil^A. J.",
    "Şahin^Ömer ẞ",
]
HIDDEN = [
    "\u200b", "\u200c", "\u200d", "\u2060", "\u00ad", "\u180e", "\ufff9", "\ufffb", "\ufeff", "\u202e", "\u2066",
    "\U000e0041", "\ufe0f", "\U000e0100", "\u034f", "\u3164", "\u2800", "\u115f",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_people_are_shown_as_they_are_and_not_marked(name: str) -> None:
    assert printable(name) == name
    assert identifier_warnings(Identity(patient_name=name, patient_id="P-1")) == ()


@pytest.mark.parametrize("character", HIDDEN, ids=ascii)
def test_what_nobody_sees_is_shown_and_marked(character: str) -> None:
    for text in (f"P{character}1", f"{character}P1", f"P1{character}"):
        assert printable(text).isascii()
        assert show_invisible(text) != "P1"
        assert IdentifierWarning.INVISIBLE in identifier_warnings(Identity(patient_id=text))
        assert identifier_warnings(Identity(patient_name=text)) == (IdentifierWarning.INVISIBLE,)
        assert IdentifierWarning.INVISIBLE in identifier_warnings(Identity(accession_number=text))


@pytest.mark.parametrize(
    "identity, looks",
    [
        (Identity(patient_name="P\u0430vel"), (IdentifierWarning.MIXED_SCRIPTS,)),
        (Identity(patient_name="D\u03bfe^Jane"), (IdentifierWarning.MIXED_SCRIPTS,)),
        (Identity(patient_id="\u04201"), (IdentifierWarning.LOOKALIKE,)),
        (Identity(patient_id="AB\u04101"), (IdentifierWarning.MIXED_SCRIPTS, IdentifierWarning.LOOKALIKE)),
        (Identity(accession_number="\uff11\uff12"), (IdentifierWarning.LOOKALIKE,)),
        (Identity(patient_id="P\u00a01"), (IdentifierWarning.INVISIBLE, IdentifierWarning.LOOKALIKE)),
        (Identity(patient_id="M\u00fc1"), ()),
        (Identity(patient_id=unicodedata.normalize("NFD", "M\u00fc1")), ()),
        (Identity(patient_id="\u5c711"), ()),
    ],
)
def test_identifiers_that_look_like_others_are_marked(identity: Identity, looks: tuple[IdentifierWarning, ...]) -> None:
    assert identifier_warnings(identity) == looks


@given(st.text(max_size=30), st.sampled_from(HIDDEN), st.integers(0, 30))
def test_two_texts_that_differ_in_what_nobody_sees_never_look_the_same(text: str, hidden: str, at: int) -> None:
    whole = text[:at] + hidden + text[at:]
    if "\\" not in text:
        assert show_invisible(whole) != show_invisible(text)


@given(st.text(max_size=40))
def test_plain_text_and_lines_stay(text: str) -> None:
    ascii_only = "".join(character for character in text if character.isascii())
    assert show_invisible(ascii_only) == ascii_only
    assert show_invisible(text).count("\n") == text.count("\n")
