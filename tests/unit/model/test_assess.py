"""Assessment of images whose header passes and whose pixels do not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite

from preread.core.types import Assessment, Declared, Population, Refusal, RefusalCode
from preread.model import bundles
from preread.model.assess import assess
from preread.model.classifier import Classifier
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

DRAWING = phantoms.draw_chest(20, rows=128, columns=128)
PHOTOGRAPH = np.dstack([DRAWING, DRAWING[::-1], 255 - DRAWING])
CHILDREN = Declared(Population.CHILDREN_1_5Y)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(bundles.load_bundle(bundles.find_bundle()))


def in_form(channels: np.ndarray, form: str) -> bytes:
    """Encode RGB channels as JPEG, PNG or DICOM."""
    stream = io.BytesIO()
    if form != "DICOM":
        Image.fromarray(channels).save(stream, form)
        return stream.getvalue()
    dataset = dcmread(io.BytesIO(phantoms.to_dicom(DRAWING, Encoding(bits=8, voi="none"))))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = channels.tobytes()
    dcmwrite(stream, dataset)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "DICOM"])
def test_a_photograph_in_colour_is_refused(form: str, classifier: Classifier) -> None:
    answer = assess(in_form(PHOTOGRAPH, form), classifier, CHILDREN)
    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.NOT_A_RADIOGRAPH
    assert "in colour" in answer.reason
    assert answer.format == form


@pytest.mark.parametrize("form", ["JPEG", "PNG", "DICOM"])
def test_grey_stored_as_colour_is_assessed(form: str, classifier: Classifier) -> None:
    assert isinstance(assess(in_form(np.dstack([DRAWING] * 3), form), classifier, CHILDREN), Assessment)
