"""Password strength: refuses well-known passwords and their combinations.

A password is split into words that head the lists of leaked passwords (also reversed, and with digits for letters),
words of site and person, years, keyboard rows, sequences and repetitions. Each such part counts as one, and so does
every other character; a total below ``LEAST_PARTS`` is refused, whatever the length. With the minimal length nearly all
leaked passwords fall under this rule, so that no list of them is needed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LEAST_PARTS = 8
_LEAST_CHARACTERS = 5
_LEAST_WORD = 3
_WORDS = frozenset(
    """
    abc access account admin administrator adobe angel animal april arzt ascii august autumn baby bank baseball
    basketball batman berlin blue boss bundesliga buster butterfly car charlie cheese chest chocolate clinic
    computer cookie correct daniel dark data december default demo dennis doctor dog dragon eagle easter england
    enter family february film flower football france freedom friday friend fritz fuck fussball geheim george german
    germany ginger god gold google guest hallo hamburg hello herbst hockey home hospital house hunter iloveyou image
    info internet january jesus jordan juli julia july june juni killer king klinik krankenhaus lady lassmichrein
    letmein linux liverpool login london love lovely lung lunge maggie mai mama march maria marlene marz master
    matrix matthew mein meins member merlin michael michelle mickey monday money monkey monster montag mother
    mustang mutter mypass nicole nimda ninja november nurse october office oktober oracle orange papa pass passw
    passwd password passwort patient pepper phoenix pneumonia pokemon praxis preread princess private purple qwerty
    qwertz radiologie radiology raspberry red roentgen rontgen root samsung sarah saturday schalke schatz schwester
    secret secure security september server service sex shadow silver snoopy soccer sommer sonne sonntag spring
    starwars station summer sunday sunshine super superman support sweet system temp test testing thomas thursday
    tiger toor trustno tuesday uberall ultrasound user vater vfb wasser wednesday welcome whatever willkommen
    windows winter wizard worker xray yellow zaq
    """.split()  # noqa: SIM905  a list of one word a line would be longer than the rest of this file
)
_PHRASES = frozenset({"correcthorsebatterystaple", "tobeornottobe", "thequickbrownfox", "nevergonnagiveyouup"})
_ROWS = (
    *(
        "abcdefghijklmnopqrstuvwxyz",
        "012345678901234567890",
        "qwertyuiop",
        "qwertzuiop",
        "azertyuiop",
        "asdfghjkl",
        "zxcvbnm",
    ),
    *("yxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm", "1q2w3e4r5t6z7u8i9o0p", "1q2w3e4r5t6y7u8i9o0p"),
    *("!@#$%^&*()", '!"§$%&/()='),
)
_WAYS = tuple(way for row in _ROWS for way in (row, row[::-1]))
_FIGURES = str.maketrans("013457@$!|", "oieastasii")
_YEAR = re.compile(r"(?:19|20)\d\d")
_APART = re.compile(r"[\s._\-+/,;:]+")


def find_password_weakness(password: str, own: Iterable[str] = ()) -> str | None:
    """Return why a password is too easily guessed; ``None`` if it is not.

    Args:
        password: password to check.
        own: names of person and site; their parts count as well-known words.
    """
    text = "".join(
        character
        for character in unicodedata.normalize("NFKD", password.casefold())
        if not unicodedata.combining(character)
    )
    if len(set(text)) < _LEAST_CHARACTERS:
        return "it has too few different characters"
    words = set(_WORDS) | {part for name in own for part in _parts_of(name)}
    words |= {word[::-1] for word in words}
    forms = {text, _APART.sub("", text)}
    forms |= {form.translate(_FIGURES) for form in forms}
    if any(form in _PHRASES for form in forms) or min(_count(_once(form), words) for form in forms) < LEAST_PARTS:
        return "it is made of words, names, sequences or repetitions that everybody tries first"
    return None


def _parts_of(name: str) -> Iterable[str]:
    text = "".join(
        character
        for character in unicodedata.normalize("NFKD", name.casefold())
        if not unicodedata.combining(character)
    )
    parts = [text, *re.split(r"[^a-z0-9]+", text)]
    return [part for part in parts if len(part) >= _LEAST_WORD]


def _once(text: str) -> str:
    """Return the repeated part of a periodic text, else the text."""
    # a text occurs in its own double before its end if and only if it is periodic
    period = (text + text).find(text, 1)
    cut = text[:period] if period < len(text) else text
    # the same with an incomplete last part, as in "abcabcab"
    for size in range(2, len(cut) // 2 + 1):
        if all(cut[index] == cut[index - size] for index in range(size, len(cut))):
            return cut[:size]
    return cut


def _count(text: str, words: set[str]) -> int:
    """Return the minimal number of parts that form a text."""
    longest = max(map(len, words))
    least = [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        best = least[end - 1] + 1
        for size in range(_LEAST_WORD, min(end, longest) + 1):
            if text[end - size : end] in words:
                best = min(best, least[end - size] + 1)
        if end >= 4 and _YEAR.fullmatch(text, end - 4, end):
            best = min(best, least[end - 4] + 1)
        start = _run_before(text, end)
        if end - start >= _LEAST_WORD:
            best = min(best, least[start] + 1)
        least[end] = best
    return least[-1]


def _run_before(text: str, end: int) -> int:
    """Return the start of the longest run of one character or row ending here."""
    same = end - 1
    while same > 0 and text[same - 1] == text[end - 1]:
        same -= 1
    along = end - 1
    while along > 0 and any(text[along - 1 : end] in way for way in _WAYS):
        along -= 1
    return min(same, along)
