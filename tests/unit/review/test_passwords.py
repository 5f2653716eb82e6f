"""Passwords that everybody tries first are refused, and what people make up is not."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.review.auth import passwords
from preread.review.auth.passwords import find_password_weakness

OWN = ("grace.hopper", "Dr Grace Hopper", "preread", "xray-desk-1")
WORDS = sorted(passwords._WORDS)


@pytest.mark.parametrize(
    "password",
    """
    password1234 123456789012 aaaaaaaaaaaa preread-preread ada-ada-ada-ada P@ssw0rd2026! qwertzuiop123 1q2w3e4r5t6z
    Sommer2026!! drowssap1234 hunter2hunter2 Welcome2026!Welcome gracehopper2026 grace.hopper!1 hopper-grace-12
    xraydesk1xraydesk1 abcdefghijkl zyxwvutsrqpo 098765432109 Krankenhaus2025! p.a.s.s.w.o.r.d pässwörtpässwört
    1qaz2wsx3edc letmeinletmein abcdabcdabcd 121212121212 !@#$%^&*()12 iloveyou2026 correcthorsebatterystaple
    """.split(),  # noqa: SIM905  a list of one word a line would be longer
)
def test_what_everybody_tries_first_is_refused(password: str) -> None:
    assert find_password_weakness(password, OWN) is not None
    assert find_password_weakness(password.upper(), OWN) is not None


@pytest.mark.parametrize(
    "password",
    [
        "a long pass phrase",
        "correct horse battery",
        "another long password",
        "k8Jf-29sLq-pz",
        "Der Mond ist rund, sagt Eva",
        "vier Tassen Tee um drei",
        "grete77Blumen!",
        "schräg übers Feld",
        "ογδόντα γαλάζια τραμ",
    ],
)
def test_what_people_make_up_is_not(password: str) -> None:
    assert find_password_weakness(password, OWN) is None


def test_a_password_has_at_least_five_different_characters() -> None:
    assert find_password_weakness("acegacgeaegcga") == "it has too few different characters"
    assert find_password_weakness("acegkacgekaegk") is None


@given(
    st.sampled_from(WORDS), st.sampled_from(WORDS), st.integers(1950, 2049), st.sampled_from(["", " ", "-", "!", "."])
)
def test_two_words_and_a_year_are_refused(first: str, second: str, year: int, between: str) -> None:
    assert find_password_weakness(f"{first}{between}{second.title()}{between}{year}") is not None


@given(st.text("abcdefghijklmnop0123", min_size=1, max_size=6), st.integers(2, 20))
def test_a_short_part_repeated_is_refused(part: str, times: int) -> None:
    assert find_password_weakness(part * times) is not None


@given(st.text(max_size=200), st.lists(st.text(max_size=40), max_size=3))
def test_any_text_has_an_answer(password: str, own: list[str]) -> None:
    assert find_password_weakness(password, own) in {None, find_password_weakness(password, own)}
    assert find_password_weakness("", own) is not None


def test_random_passwords_are_taken() -> None:
    assert not [one for one in (secrets.token_urlsafe(12) for _ in range(500)) if find_password_weakness(one, OWN)]
