"""JPEG 2000 at a lower resolution: the same film within what is stated, or the whole film."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from PIL import Image

from preread.core.errors import UnreadableError
from preread.core.types import PixelArray
from preread.imaging import rendering
from preread.imaging.preprocessing import TRAINING_SPEC, preprocess_image, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model import bundles
from preread.model.assess import SHORTER_SIDE_PX
from preread.model.classifier import Classifier
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

ROWS, COLUMNS = 1201, 902
FILM = np.asarray(Image.fromarray(phantoms.draw_chest(2, rows=600, columns=450)).resize((COLUMNS, ROWS)))


def film(**how: object) -> bytes:
    return phantoms.to_dicom(FILM, Encoding(**{"syntax": "jpeg-2000-lossless", **how}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [{"bits": 8}, {"bits": 12}, {"bits": 16}, {"photometric_interpretation": "MONOCHROME1"}]
)
def test_a_smaller_copy_is_the_same_film_to_the_network(how: dict[str, object]) -> None:
    header = read_image_header(film(**how))
    whole, smaller = decode_radiograph(header), decode_radiograph(header, shorter_side_px=400)
    assert (whole.rows, whole.columns) == (smaller.rows, smaller.columns) == whole.pixels.shape == (ROWS, COLUMNS)
    assert smaller.pixels.shape == (601, 451)
    assert smaller.caveats == whole.caveats
    assert smaller.decoder != whole.decoder
    apart = np.abs(
        resize_to_input(TRAINING_SPEC, smaller.pixels).astype(int) - resize_to_input(TRAINING_SPEC, whole.pixels)
    )
    assert apart.mean() < 1
    assert apart.max() <= 40  # at the hard edges of markers: a smaller copy lies half a pixel of the film aside


@pytest.mark.parametrize("shorter_side_px", [None, 400])
def test_the_number_of_threads_changes_no_pixel(monkeypatch: pytest.MonkeyPatch, shorter_side_px: int | None) -> None:
    header = read_image_header(film(bits=12))
    seen: list[PixelArray] = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OPJ_NUM_THREADS", threads)
        seen.append(decode_radiograph(header, shorter_side_px=shorter_side_px).pixels)
    assert np.array_equal(seen[0], seen[1])


def test_the_answer_stays_within_what_the_bundle_allows_between_machines() -> None:
    classifier = Classifier(bundles.load_bundle(bundles.find_bundle()))
    manifest = classifier.bundle.manifest
    large = np.asarray(Image.fromarray(phantoms.draw_chest(5)).resize((2048, 2100), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(0).normal(0, 3, large.shape)
    large = np.clip(large + grain, 0, 255).astype(np.uint8)
    header = read_image_header(phantoms.to_dicom(large, Encoding("jpeg-2000", bits=12)))
    seen = [decode_radiograph(header), decode_radiograph(header, shorter_side_px=SHORTER_SIDE_PX)]
    assert [one.pixels.shape for one in seen] == [(2100, 2048), (1050, 1024)]
    logits = [float(classifier.classify(preprocess_image(manifest.preprocessing, one.pixels)).logit[0]) for one in seen]
    assert abs(logits[0] - logits[1]) <= manifest.golden_tolerance


@pytest.mark.parametrize("how", [{"signed": True}, {"syntax": "jpeg-lossless-sv1"}, {"syntax": "htj2k-lossless"}])
def test_what_holds_no_smaller_copy_that_is_sure_comes_whole(how: dict[str, object]) -> None:
    header = read_image_header(film(**how))
    assert np.array_equal(decode_radiograph(header, shorter_side_px=400).pixels, decode_radiograph(header).pixels)


def test_a_padded_film_comes_whole() -> None:
    dataset = pydicom.dcmread(io.BytesIO(film()))
    dataset.add_new("PixelPaddingValue", "US", 0)
    stream = io.BytesIO()
    dataset.save_as(stream)
    assert decode_radiograph(read_image_header(stream.getvalue()), shorter_side_px=400).pixels.shape == (ROWS, COLUMNS)


def test_more_halvings_than_the_film_has_resolutions_bring_it_whole() -> None:
    assert decode_radiograph(read_image_header(film()), shorter_side_px=2).pixels.shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_film_that_is_cut_off_ends_as_it_does_whole(share: float) -> None:
    data = film()
    header = read_image_header(data[: int(share * len(data))])
    with pytest.raises(UnreadableError) as whole:
        decode_radiograph(header)
    with pytest.raises(type(whole.value)):
        decode_radiograph(header, shorter_side_px=400)


# --------------------------------------------------------------------------- only counted where it matters


def test_a_large_image_is_counted_in_every_nth_row_and_a_small_one_in_all() -> None:
    values = np.arange(2000, dtype=np.uint16).repeat(1500).reshape(2000, 1500)
    padding = np.arange(1 << 16) < 2
    large, small = (rendering._Histogram(part, padding) for part in (values, values[:600]))
    step = -(-values.size // rendering._SAMPLE_PX)
    assert step > 1
    assert np.flatnonzero(large.sample).tolist() == list(range(step, 2000, step))
    assert set(large.sample) == {0, 1500}
    assert small.sample is small.counts
    assert np.flatnonzero(small.counts).tolist() == list(range(2, 600))
