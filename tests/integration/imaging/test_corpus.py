"""Every file that comes with pydicom and pydicom-data: well-formed, dirty and deliberately broken ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from preread.core.errors import UnreadableError
from preread.core.types import Caveat, Declared, IntendedUse, Population, RefusalCode
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model.intended_use import check_intended_use

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "")
RESEARCH = Declared(Population.RESEARCH)


def corpus() -> list[Path]:
    """Files of both packages; the larger set is found through a file that it is known to hold."""
    own = Path(pydicom.__file__).parent / "data" / "test_files"
    more = Path(named("RG1_UNCR.dcm")).parent
    return sorted(path for root in (own, more) for path in root.rglob("*") if path.is_file() and path.suffix != ".py")


def named(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"the package pydicom-data does not hold {name}"
    return path


def outcome(path: Path, declared: Declared) -> str:
    try:
        header = read_image_header(path.read_bytes())
        verdict = check_intended_use(header, USE, declared)
        if verdict.refusal is not None:
            return f"refused {verdict.refusal[0]}"
        radiograph = decode_radiograph(header)
    except UnreadableError as error:
        return f"unreadable {error.code}"
    assert radiograph.pixels.ndim == 2
    return "radiograph"


def test_every_file_ends_in_a_named_outcome() -> None:
    found = Counter(outcome(path, RESEARCH) for path in corpus())
    assert sum(found.values()) > 240
    assert found["radiograph"] == 4  # the one chest film, in four forms
    codes = {code.value for code in RefusalCode} | {error.code for error in UnreadableError.__subclasses__()}
    assert {kind.split()[-1] for kind in found} <= codes | {"radiograph"}


def test_every_file_with_pixels_decodes_or_has_a_named_error() -> None:
    """Also those that the gate would refuse: what guards the decoders must not rest on tags."""
    found: Counter[str] = Counter()
    for path in corpus():
        try:
            radiograph = decode_radiograph(read_image_header(path.read_bytes()))
        except UnreadableError as error:
            found[error.code] += 1
        else:
            found["decoded"] += 1
            assert radiograph.pixels.dtype == np.uint8
    assert found["decoded"] >= 75
    assert found["decode_failed"] == 0  # what is broken there is found before a decoder runs


@pytest.mark.parametrize(
    "name, expected",
    [
        ("RG1_UNCR.dcm", "refused age_outside"),
        ("RG1_J2KI.dcm", "refused age_outside"),
        ("RG3_UNCR.dcm", "refused body_part"),
        ("CT_small.dcm", "refused modality"),
        ("color3d_jpeg_baseline.dcm", "refused modality"),
        ("test-SR.dcm", "refused not_an_image"),
        ("reportsi.dcm", "refused not_an_image"),
        ("rtplan.dcm", "refused not_an_image"),
        ("dicomdirtests/DICOMDIR", "refused not_an_image"),
        ("dicomdirtests/DICOMDIR-bigEnd", "refused not_an_image"),
        ("dicomdirtests/77654033/CR1/6154", "refused shape"),
        ("MR_truncated.dcm", "refused modality"),
        ("README.txt", "unreadable unknown_format"),
    ],
)
def test_known_files(name: str, expected: str) -> None:
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    assert outcome(path if path.exists() else Path(named(name)), Declared()) == expected


def test_the_real_film_is_read_the_same_from_every_form() -> None:
    """Uncompressed and JPEG 2000, lossless and lossy; its age comes from birth and study date."""
    films = {name: read_image_header(Path(named(name)).read_bytes()) for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm")}
    lossy = {name: read_image_header(Path(named(name)).read_bytes()) for name in ("RG1_UNCI.dcm", "RG1_J2KI.dcm")}
    whole = [decode_radiograph(header) for header in films.values()]
    assert np.array_equal(whole[0].pixels, whole[1].pixels)
    assert whole[0].pixels.shape == (1955, 1841)
    for header in lossy.values():
        radiograph = decode_radiograph(header)
        assert Caveat.LOSSY in radiograph.caveats
        apart = np.abs(radiograph.pixels.astype(int) - whole[0].pixels)
        assert np.percentile(apart, 99) <= 2
    years = next(iter(films.values())).identity.patient_age_years
    assert years is not None
    assert int(years) == 64


def test_the_same_slice_is_the_same_in_lossless_syntaxes() -> None:
    names = ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm")
    pictures = [
        decode_radiograph(read_image_header(Path(named(n)).read_bytes())).pixels
        for n in (*names, "MR_small_implicit.dcm")
    ]
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
