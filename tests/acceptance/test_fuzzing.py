"""A short run of ``make fuzz``: see ``programs/fuzz.py``."""

from __future__ import annotations

from pathlib import Path

from tests.programs import fuzz, mutations

FILMS = 250


def test_damaged_films_end_in_named_outcomes_and_no_worker_ends(tmp_path: Path) -> None:
    found = fuzz.fuzz(FILMS, seed=20261121, folder=tmp_path)
    assert found.findings == {}
    assert found.slot_deaths == 0
    assert sum(found.outcomes.values()) == FILMS
    # the damage is neither so small that nothing shows nor so large that nothing reaches a decoder
    assert found.outcomes["assessed"] + found.outcomes["refused not_chest"] > 10
    assert sum(count for name, count in found.outcomes.items() if name.startswith("unreadable")) > 50


def test_a_finding_can_be_had_again_and_made_small() -> None:
    films = mutations.seeds()
    assert len(films) > 100
    first, again, other = (mutations.mutated(1, number, films) for number in (7, 7, 8))
    assert first == again
    assert first != other
    small = fuzz.minimised(
        b"harmless" * 300 + b"EVIL" + b"harmless" * 300, "it died", lambda d: "it died" if b"EVIL" in d else None
    )
    assert b"EVIL" in small
    assert len(small) < 60
