"""Answers for images whose header and pixels are on different scales.

They are compared with the answers for the same images as they should be. ``python -m tests.bench.scales DATA`` prints
the table, ``--write`` keeps it in docs/explanation/measured.md. ``DATA`` is the folder with chest_xray_full and
chest_xray_224.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from preread.core.errors import UnreadableError
from preread.core.types import Assessment, Caveat, Declared
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model import bundles
from preread.model.assess import assess
from preread.model.classifier import Classifier
from tests.bench.films import of_folder
from tests.support.wrong_scales import KINDS, Kind

FULL, SMALL = 180, 1000
_DOCS = Path(__file__).parents[2] / "docs" / "explanation" / "measured.md"
_BEGIN, _END = "<!-- scales: begin -->\n", "\n<!-- scales: end -->"
_USUAL = {Caveat.AGE_ASSUMED, Caveat.NO_TAGS, Caveat.UNIDENTIFIED, Caveat.LOSSY}


@dataclass(slots=True)
class Row:
    """Answers for one kind.

    Attributes:
        same: images with the plain image's answer.
        changed: images with another answer, or with one where the plain image has none.
        codes: number of images without an answer, by code.
        caveats: number of images, by caveat.
    """

    same: int = 0
    changed: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    caveats: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Assess every image in every kind, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scales", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with chest_xray_full and chest_xray_224")
    parser.add_argument("--full", type=int, default=FULL, help="number of images at full size")
    parser.add_argument("--small", type=int, default=SMALL, help="number of images of 224 pixels")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/explanation/measured.md")
    asked = parser.parse_args()
    films = [
        *_spread(of_folder(asked.data / "chest_xray_full", sys.maxsize), asked.full),
        *_spread(of_folder(asked.data / "chest_xray_224" / "train", sys.maxsize), asked.small),
    ]
    if not films:
        parser.error(f"there is no image in {asked.data}")
    text = table(measure(films), asked.full, len(films) - asked.full)
    print(text)
    if asked.write:
        document = _DOCS.read_text(encoding="utf-8")
        _DOCS.write_text(_replaced(document, text), encoding="utf-8")
    return 0


def measure(films: Iterable[Path]) -> dict[str, Row]:
    """Return the answers for each kind, by its name."""
    classifier = Classifier(bundles.load_bundle(bundles.find_bundle()))
    rows = {kind.name: Row() for kind in KINDS}
    for number, film in enumerate(films, 1):
        levels = decode_radiograph(read_image_header(film.read_bytes())).pixels
        plain, *_ = _assess(KINDS[0].make(levels), classifier)
        for kind in KINDS:
            answer, code, caveats = _assess(kind.make(levels), classifier)
            row = rows[kind.name]
            row.caveats.update(caveat.value for caveat in caveats if caveat not in _USUAL)
            if answer is None:
                row.codes[code] += 1
            else:
                row.same += answer == plain
                row.changed += answer != plain
        sys.stderr.write(f"{number} images\n")
    return rows


def _assess(data: bytes, classifier: Classifier) -> tuple[str | None, str, tuple[Caveat, ...]]:
    """Return the answer or ``None``, the code of a file without one, and the caveats."""
    try:
        result = assess(data, classifier, Declared(assume_age=True))
    except UnreadableError as error:
        return None, error.code, ()
    if not isinstance(result, Assessment):
        return None, result.code.value, ()
    return result.findings[0].answer.value, "", result.caveats


def table(rows: dict[str, Row], full: int, small: int) -> str:
    """Return the table in Markdown."""
    answered = sum(row.same + row.changed for row in rows.values())
    changed = sum(row.changed for row in rows.values())
    films = f"{full} images at full size and {small} of 224 pixels"
    lines = [
        f"{films}: {answered} answers, {changed} of them other than the plain image's.",
        "",
        "| kind | scale certain | same answer | another | not answered | caveats |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_line(kind, rows[kind.name]) for kind in KINDS),
    ]
    return "\n".join(lines)


def _line(kind: Kind, row: Row) -> str:
    certain = "yes" if kind.certain else "no"
    return f"| {kind.name} | {certain} | {row.same} | {row.changed} | {_counted(row.codes)} | {_counted(row.caveats)} |"


def _replaced(document: str, text: str) -> str:
    head, _, rest = document.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}\n{text}\n{_END}{tail}"


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count} `{code}`" for code, count in found.most_common()) or "0"


def _spread(films: list[Path], count: int) -> list[Path]:
    """Return so many of the files, evenly distributed."""
    return [films[number * len(films) // count] for number in range(min(count, len(films)))] if count else []


if __name__ == "__main__":
    sys.exit(main())
