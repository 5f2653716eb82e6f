"""The films of the benchmark: every file has bytes of its own, made once and kept in the folder of the benchmark."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from preread_training.data.phantoms import Encoding, draw_chest, to_dicom, to_jpeg

DICOM_SHAPE_PX = (3000, 2500)
_FULL_SHAPES_PX = ((1330, 1650), (820, 1220))  # typical of the published films without and with pneumonia
_BASES = 4  # drawn phantoms, of which others differ by a shift


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of film.

    Attributes:
        name: as the table shows it.
        films: so many are run through worker and floor.
        make: yields the content of each film.
        few: so many go the usual way, one at a time, and through one core.
    """

    name: str
    films: int
    few: int
    make: Callable[[int], Iterator[bytes]]


def of_folder(folder: Path | None, count: int) -> list[Path]:
    """Up to so many JPEGs of a folder's subfolders, from all of them alike; none where there is no such folder."""
    if folder is None or not folder.is_dir():
        return []
    of_each = [sorted(sub.glob("*.jp*g")) for sub in sorted(folder.iterdir()) if sub.is_dir()]
    both = [film for films in itertools.zip_longest(*of_each) for film in films if film is not None]
    return both[:count]


def _jpeg(folder: Path | None, shapes: tuple[tuple[int, int], ...]) -> Callable[[int], Iterator[bytes]]:
    def make(count: int) -> Iterator[bytes]:
        found = of_folder(folder, count)
        yield from (film.read_bytes() for film in found)
        for seed in range(len(found), count):
            rows, columns = shapes[seed % len(shapes)]
            yield to_jpeg(draw_chest(seed, rows=rows, columns=columns))

    return make


def _dicom(syntax: str) -> Callable[[int], Iterator[bytes]]:
    def make(count: int) -> Iterator[bytes]:
        rows, columns = DICOM_SHAPE_PX
        drawn = [draw_chest(seed, rows=rows // 4, columns=columns // 4) for seed in range(min(count, _BASES))]
        grain = np.random.default_rng(0).normal(0, 3, DICOM_SHAPE_PX)
        for seed in range(count):
            large = np.asarray(Image.fromarray(drawn[seed % _BASES]).resize((columns, rows), Image.Resampling.BICUBIC))
            pixels = np.clip(large + np.roll(grain, 7 * seed, axis=1), 0, 255).astype(np.uint8)
            yield to_dicom(pixels, Encoding(syntax, bits=16), seed)

    return make


def kinds(data: Path | None, share: float) -> list[Kind]:
    """The kinds of the benchmark.

    Args:
        data: holds ``chest_xray_224/train`` and ``chest_xray_full``; phantoms of the same sizes where it does not.
        share: of the full number of films, in (0, 1].
    """

    def number(films: int) -> int:
        return max(4, round(films * share))

    small = _jpeg(data / "chest_xray_224" / "train" if data else None, ((224, 224),))
    full = _jpeg(data / "chest_xray_full" if data else None, _FULL_SHAPES_PX)
    return [
        Kind("JPEG, 224 px", number(1000), number(60), small),
        Kind("JPEG, full size", number(300), number(60), full),
        Kind("DICOM 3000x2500, uncompressed", number(100), number(40), _dicom("explicit")),
        Kind("DICOM 3000x2500, JPEG lossless", number(80), number(40), _dicom("jpeg-lossless-sv1")),
        Kind("DICOM 3000x2500, JPEG 2000", number(40), number(24), _dicom("jpeg-2000-lossless")),
    ]


def written(kind: Kind, folder: Path) -> list[Path]:
    """The kind's films as files in a folder of their own, written if they are not there yet."""
    place = folder / kind.name.lower().replace(", ", "-").replace(" ", "-")
    suffix = ".dcm" if kind.name.startswith("DICOM") else ".jpg"
    films = [place / f"{number:05}{suffix}" for number in range(kind.films)]
    if not all(film.exists() for film in films):
        place.mkdir(parents=True, exist_ok=True)
        for film, content in zip(films, kind.make(kind.films), strict=True):
            film.write_bytes(content)
    return films


def put(films: Sequence[Path], root: Path) -> list[Path]:
    """Put films into a root, each whole under its last name in one step; as links, so that no disk is measured."""
    placed = []
    for film in films:
        beside = root.parent / f"{film.name}.part"
        os.link(film, beside)
        placed.append(root / film.name)
        os.replace(beside, placed[-1])
    return placed
