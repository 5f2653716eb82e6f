"""The pixel path against DCMTK's own rendering: within one grey level on well-formed films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from preread.core.types import Caveat
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding
from tests.corpus.comparison import by_dcmtk

pytestmark = pytest.mark.dcmtk

READ_BY_DCMTK = [name for name in phantoms.TRANSFER_SYNTAXES if "2000" not in name and "htj2k" not in name]


def as_dcmtk_shows(path: Path) -> np.ndarray:
    shown = by_dcmtk(path, read_image_header(path.read_bytes()))
    assert isinstance(shown, np.ndarray), shown
    return shown


def apart(path: Path) -> int:
    shown = as_dcmtk_shows(path)
    radiograph = decode_radiograph(read_image_header(path.read_bytes()))
    assert Caveat.NO_WINDOW not in radiograph.caveats  # DCMTK knows no such stretch
    assert shown.shape == radiograph.pixels.shape
    return int(np.abs(shown.astype(int) - radiograph.pixels).max())


@pytest.mark.parametrize("syntax", READ_BY_DCMTK)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", ["window", "lut"])
def test_phantoms(syntax: str, photometric: str, voi: str, tmp_path: Path) -> None:
    film = phantoms.draw_chest(4, rows=200, columns=180)
    if syntax == "jpeg-extended":
        film = np.clip(film, 8, 247)  # DCMTK 3.6.7 wraps 12-bit samples that overshoot black or white
    bits = 8 if syntax == "jpeg-baseline" else 12
    path = tmp_path / "film.dcm"
    path.write_bytes(phantoms.to_dicom(film, Encoding(syntax, photometric, bits, voi=voi)))
    assert apart(path) <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rescale", [(1.0, 0.0), (2.0, -100.0), (-1.0, 5000.0)])
def test_bits_signs_and_rescales(bits: int, signed: bool, rescale: tuple[float, float], tmp_path: Path) -> None:
    """Whole numbers only: DCMTK 3.6.7 keeps rescaled values as integers, and wraps some behind a slope of 0.25."""
    path = tmp_path / "film.dcm"
    encoding = Encoding(bits=bits, signed=signed, slope=rescale[0], intercept=rescale[1])
    path.write_bytes(phantoms.to_dicom(phantoms.draw_chest(6, rows=120, columns=130), encoding))
    assert apart(path) <= 1


@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
@pytest.mark.parametrize("window", [("1500", "900"), ("2048", "4096"), ("700.5", "333.25")])
def test_windows_that_cut(function: str, window: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    elements: dict[str, Any] = {"WindowCenter": window[0], "WindowWidth": window[1], "VOILUTFunction": function}
    film = phantoms.draw_chest(7, rows=120, columns=130)
    path.write_bytes(phantoms.to_dicom(film, replace(Encoding(), voi="none"), **elements))
    assert apart(path) <= 1


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_UNCI.dcm", "RG3_UNCR.dcm", "RG3_UNCI.dcm", "vlut_04.dcm"])
def test_real_films(name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    assert apart(Path(path)) <= 1


@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "RG3_J2KR.dcm"])
def test_lossless_jpeg_2000_is_what_dcmtk_shows_of_the_uncompressed_film(name: str) -> None:
    compressed, plain = (get_testdata_file(n, download=False) for n in (name, name.replace("J2KR", "UNCR")))
    assert isinstance(compressed, str)
    assert isinstance(plain, str)
    shown = as_dcmtk_shows(Path(plain))
    pixels = decode_radiograph(read_image_header(Path(compressed).read_bytes())).pixels
    assert np.abs(shown.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("folder", ["CR1/6154", "CR2/6247", "CR3/6278"])
def test_old_films_with_broken_rescale(folder: str) -> None:
    """Agfa CR with a rescale of 0.684 and 200, MONOCHROME1."""
    path = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(path, str)
    assert apart(Path(path).parent / "dicomdirtests" / "77654033" / folder) <= 1
