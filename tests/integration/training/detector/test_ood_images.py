"""What the shipped bundle lets pass and refuses by the picture alone: every picture a plain PNG without tags."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from preread.core.types import Declared, PixelArray, Population, Refusal, RefusalCode
from preread.imaging.preprocessing import TRAINING_SPEC, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model import bundles
from preread.model.assess import assess
from preread.model.classifier import Classifier
from preread_training.data.phantoms import draw_chest, make_demo_files, to_png
from preread_training.detector import synthetic_negatives
from preread_training.detector.ood_images import crop_views, load_package_images

BY_PICTURE = {RefusalCode.NOT_CHEST, RefusalCode.INVERTED, RefusalCode.ORIENTATION}
US_FILES = ("examples_ybr_color.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm", "color3d_jpeg_baseline.dcm")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(bundles.load_bundle(bundles.find_bundle()))


@pytest.fixture(scope="module")
def codes(classifier: Classifier) -> Callable[[Iterable[PixelArray]], Counter[str]]:
    """How pictures end: a code of ``BY_PICTURE``, or ``assessed``."""

    def count(pictures: Iterable[PixelArray]) -> Counter[str]:
        ended = [assess(to_png(picture), classifier, Declared(assume_age=True)) for picture in pictures]
        assert all(end.code in BY_PICTURE for end in ended if isinstance(end, Refusal))
        return Counter(str(end.code) if isinstance(end, Refusal) else "assessed" for end in ended)

    return count


def share_refused(found: Counter[str]) -> float:
    return 1 - found["assessed"] / found.total()


@pytest.fixture(scope="module")
def chest(films: Path) -> PixelArray:
    """Every 30th training film."""
    paths = sorted((films / "chest_xray_224" / "train").glob("*/*"))[::30]
    return np.stack(
        [
            resize_to_input(TRAINING_SPEC, decode_radiograph(read_image_header(path.read_bytes())).pixels)
            for path in paths
        ]
    )


# --------------------------------------------------------------------------- films pass


@pytest.mark.films
@pytest.mark.parametrize("folder", ["chest_xray_224/val", "chest_xray_full"])
def test_films_pass(films: Path, classifier: Classifier, folder: str) -> None:
    paths = sorted((films / folder).glob("*/*"))
    assert len(paths) in (16, 180)
    ended = [assess(path.read_bytes(), classifier, Declared(assume_age=True)) for path in paths]
    assert sum(isinstance(end, Refusal) for end in ended) <= 0.01 * len(paths)


@pytest.mark.films
def test_at_least_99_percent_of_films_pass_also_mirrored_and_in_another_tone(
    chest: PixelArray, codes: Callable[[Iterable[PixelArray]], Counter[str]]
) -> None:
    variants: dict[str, PixelArray] = {
        "as they are": chest,
        "mirrored": chest[:, :, ::-1],
        "darker": np.clip(chest.astype(int) - 30, 0, 255).astype(np.uint8),
        "brighter": np.clip(chest.astype(int) + 30, 0, 255).astype(np.uint8),
        "flatter": (chest * 0.6 + 50).astype(np.uint8),
    }
    assert {name: share_refused(codes(pictures)) <= 0.01 for name, pictures in variants.items()} == dict.fromkeys(
        variants, True
    )


@pytest.mark.films
def test_films_pass_a_little_turned_or_cropped(
    chest: PixelArray, codes: Callable[[Iterable[PixelArray]], Counter[str]]
) -> None:
    rng = np.random.default_rng(0)

    def cropped(film: PixelArray) -> PixelArray:
        side = int(224 * rng.uniform(0.8, 0.95))
        top, left = rng.integers(0, 224 - side, 2)
        return resize_to_input(TRAINING_SPEC, np.ascontiguousarray(film[top : top + side, left : left + side]))

    def tilted(film: PixelArray) -> PixelArray:
        angle = float(rng.choice([-1, 1]) * rng.uniform(5, 10))
        return np.asarray(Image.fromarray(film).rotate(angle, Image.Resampling.BILINEAR))

    assert share_refused(codes(cropped(film) for film in chest)) <= 0.03
    assert share_refused(codes(tilted(film) for film in chest)) <= 0.03


def test_the_real_film_of_an_adult_passes_where_the_folder_is_for_research(classifier: Classifier) -> None:
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert isinstance(path, str)
    ended = assess(Path(path).read_bytes(), classifier, Declared(Population.RESEARCH))
    assert not isinstance(ended, Refusal)


def test_phantoms_pass(codes: Callable[[Iterable[PixelArray]], Counter[str]], classifier: Classifier) -> None:
    sizes = ((512, 512), (420, 512), (96, 96), (300, 240))
    drawn = [draw_chest(seed, rows=rows, columns=columns) for seed in range(10) for rows, columns in sizes]
    assert codes(drawn) == {"assessed": len(drawn)}
    ended = [assess(data, classifier, Declared(Population.CHILDREN_1_5Y)) for _, data in make_demo_files()]
    assert not {end.code for end in ended if isinstance(end, Refusal)} & BY_PICTURE


# --------------------------------------------------------------------------- what is refused


@pytest.mark.films
@pytest.mark.parametrize("kind", synthetic_negatives.MISHAPS)
def test_a_film_turned_or_exchanged_is_refused_and_named(
    chest: PixelArray, codes: Callable[[Iterable[PixelArray]], Counter[str]], kind: str
) -> None:
    found = codes(synthetic_negatives.MISHAPS[kind](chest))
    assert share_refused(found) >= 0.98
    assert found["inverted" if kind == "inverted" else "orientation"] >= 0.9 * len(chest)


@pytest.mark.films
@pytest.mark.parametrize("kind", ["noise", "clouds", "faint", "shapes"])
def test_noise_and_drawings_are_refused(
    chest: PixelArray, codes: Callable[[Iterable[PixelArray]], Counter[str]], kind: str
) -> None:
    made = synthetic_negatives.make_synthetic_negatives(kind, chest, TRAINING_SPEC, seed=77)
    assert share_refused(codes(picture for picture in made if np.ptp(picture) >= 8)) >= 0.98


@pytest.mark.films
def test_knees_of_which_nothing_was_learned_are_refused(
    films: Path, codes: Callable[[Iterable[PixelArray]], Counter[str]]
) -> None:
    paths = sorted((films / "not_chest" / "knee").glob("*"))
    found = codes(decode_radiograph(read_image_header(path.read_bytes())).pixels for path in paths)
    assert found.total() == 300
    assert share_refused(found) >= 0.98
    assert found["not_chest"] >= 0.9 * 300


@pytest.mark.parametrize("kind", ["ct", "mr", "nm", "photograph", "us"])
def test_slices_and_photographs_of_which_nothing_was_learned_are_refused(
    codes: Callable[[Iterable[PixelArray]], Counter[str]], kind: str
) -> None:
    assert share_refused(codes(load_package_images(TRAINING_SPEC)[kind])) >= 0.98


def frames() -> Iterator[PixelArray]:
    """Ultrasound frames in grey: colour alone would end them as unreadable."""
    for name in US_FILES:
        path = get_testdata_file(name, download=False)
        assert isinstance(path, str), name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = pydicom.dcmread(path).pixel_array
        stored = stored if stored.ndim > 3 else stored[np.newaxis]
        for frame in stored[::6].astype(np.float64):
            grey = frame @ [0.299, 0.587, 0.114] if frame.ndim == 3 else frame
            yield ((grey - grey.min()) * (255 / np.ptp(grey))).astype(np.uint8)


def test_ultrasound_of_which_nothing_was_learned_is_refused(
    codes: Callable[[Iterable[PixelArray]], Counter[str]],
) -> None:
    shown = [view for seed, frame in enumerate(frames()) for view in crop_views(frame, TRAINING_SPEC, seed, 2)]
    assert len(shown) >= 40
    assert share_refused(codes(shown)) >= 0.98
