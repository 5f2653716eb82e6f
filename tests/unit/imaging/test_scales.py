"""Headers that contradict their pixels: the image as it should be, or an outcome that names the contradiction."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from preread.core.types import Caveat, Radiograph
from preread.imaging.codecs.stored_bits import BitField, find_bits, find_depth
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import phantoms
from tests.support import wrong_scales
from tests.support.wrong_scales import KINDS, Kind

FILM = phantoms.draw_chest(4, rows=200, columns=180)
TWELVE = wrong_scales.spread_over(FILM, 12)
FULL: dict[str, object] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2048", "WindowWidth": "4096"}


def read(data: bytes) -> Radiograph:
    return decode_radiograph(read_image_header(data))


def apart(radiograph: Radiograph) -> int:
    return int(np.abs(radiograph.pixels.astype(int) - FILM).max())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_shown_as_it_should_be_or_has_a_fault(kind: Kind) -> None:
    radiograph = read(kind.make(FILM))
    if kind.certain:
        assert not radiograph.scale_fault
        lossy, marked = "JPEG" in kind.name, "marker" in kind.name
        differs = np.abs(radiograph.pixels.astype(int) - FILM) > (12 if lossy else 1)
        assert np.count_nonzero(differs) <= 16 * marked
        assert (radiograph.caveats != ()) == ("should be" not in kind.name)
    else:
        assert radiograph.scale_fault or Caveat.WINDOW_CLIPS in radiograph.caveats


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "elements, reason",
    [
        ({"WindowCenter": "1000", "WindowWidth": "2000"}, "WindowCenter 1000 and WindowWidth 2000"),
        ({"WindowCenter": "20000", "WindowWidth": "50000"}, "WindowCenter 20000 and WindowWidth 50000"),
        ({"WindowCenter": "1024", "WindowWidth": "2048"}, "WindowCenter 1024 and WindowWidth 2048"),
    ],
)
def test_a_fault_names_elements_values_and_range(photometric: str, elements: dict[str, object], reason: str) -> None:
    fault = read(wrong_scales.dicom(TWELVE, {**FULL, **elements, "PhotometricInterpretation": photometric})).scale_fault
    assert reason in fault
    assert "the stored values lie between 0 and 4095" in fault


def test_an_8_bit_stream_under_a_window_of_part_of_12_bits_has_a_fault() -> None:
    """The window may belong to the values before or after their reduction to 8 bits."""
    frame = bytes(imagecodecs.jpeg8_encode(FILM, level=95))
    elements = {**FULL, "BitsAllocated": 16, "WindowCenter": "1100", "WindowWidth": "2200"}
    radiograph = read(wrong_scales.dicom(FILM, elements, frame, phantoms.TRANSFER_SYNTAXES["jpeg-extended"]))
    assert "WindowCenter 1100 and WindowWidth 2200 show the image in grey levels from 0 to" in radiograph.scale_fault


@pytest.mark.parametrize("width", ["0", "-4096", "NaN"])
def test_an_unusable_window_over_right_aligned_bits_is_a_stretch(width: str) -> None:
    window = {"WindowCenter": "2048", "WindowWidth": None if width == "NaN" else width}
    radiograph = read(wrong_scales.dicom(TWELVE, {**FULL, "HighBit": 15, **window}))
    assert apart(radiograph) <= 1
    assert set(radiograph.caveats) == {Caveat.DEPTH_CORRECTED, Caveat.NO_WINDOW}


def test_a_slope_of_zero_under_a_window_of_16_bits_keeps_both_caveats() -> None:
    elements = {**FULL, **wrong_scales.full_range(16), "RescaleSlope": "0", "RescaleIntercept": "0"}
    radiograph = read(wrong_scales.dicom(TWELVE, elements))
    assert apart(radiograph) <= 1
    assert set(radiograph.caveats) == {Caveat.RESCALE_IGNORED, Caveat.WINDOW_REPLACED}


def test_a_marker_at_the_top_of_16_bits_does_not_hide_an_image_of_12() -> None:
    elements = {"BitsStored": 16, "HighBit": 15, **wrong_scales.full_range(16)}
    radiograph = read(wrong_scales.dicom(wrong_scales.marked(TWELVE), elements))
    assert np.count_nonzero(np.abs(radiograph.pixels.astype(int) - FILM) > 1) <= 16
    assert radiograph.caveats == (Caveat.WINDOW_REPLACED,)


@pytest.mark.parametrize("stated", [False, True])
def test_a_wrong_sign_is_corrected(stated: bool) -> None:
    words = TWELVE.astype(np.int32) - (0 if stated else 2048)
    low = 0 if stated else -2048
    elements = {**FULL, "PixelRepresentation": int(stated), "WindowCenter": str(low + 2048)}
    radiograph = read(wrong_scales.dicom(words.astype(np.int16).view(np.uint16), elements))
    assert apart(radiograph) <= 1
    assert radiograph.caveats == (Caveat.DEPTH_CORRECTED,)


# --------------------------------------------------------------------------- bits that are no part of the value


@pytest.mark.parametrize("kind", ["constant", "noise", "text"])
def test_bits_above_the_value_are_ignored(kind: str) -> None:
    rng = np.random.default_rng(1)
    above: np.ndarray[Any, Any] = np.zeros(TWELVE.shape, np.uint16)
    if kind == "constant":
        above[:] = 0xF000
    elif kind == "noise":
        above = rng.integers(0, 16, TWELVE.shape).astype(np.uint16) << 12
    else:
        above[20:40, 20:120] = 0x1000
    radiograph = read(wrong_scales.dicom(TWELVE | above, FULL))
    assert apart(radiograph) <= 1
    assert radiograph.caveats == ()


def test_bits_that_partly_continue_the_value_have_a_fault() -> None:
    """Values of 12 bits under BitsStored 10, and noise in the thirteenth."""
    noise = np.random.default_rng(0).random(TWELVE.shape)
    shares = np.arange(0.0, 0.5, 0.01)
    declared = BitField(0, 10, signed=False)
    found = [find_bits(TWELVE | ((noise < share) * np.uint16(0x1000)), declared) for share in shares]
    assert found[0].field == BitField(0, 12, signed=False)
    assert found[-1].field == declared
    contradictions = [each.contradiction for each in found if each.contradiction]
    assert set(contradictions) == {"bits up to 12 are used, partly as a continuation of the value"}
    share = next(share for share, each in zip(shares, found, strict=True) if each.contradiction)
    words = TWELVE | ((noise < share) * np.uint16(0x1000))
    fault = read(wrong_scales.dicom(words, {**FULL, "BitsStored": 10, "HighBit": 9})).scale_fault
    assert fault == f"BitsStored is 10 and HighBit 9, but {contradictions[0]}"


@given(bits=st.integers(8, 16), top=st.floats(0.51, 1.0), marker=st.booleans())
def test_the_depth_is_that_of_the_values(bits: int, top: float, marker: bool) -> None:
    highest = int(top * ((1 << bits) - 1))
    values = np.arange(highest + 1)
    counts = np.full(values.size, 100)
    if marker and bits <= 12:
        values, counts = np.append(values, 0xFFFF), np.append(counts, 1)
    depth = find_depth(values, counts)
    assert depth.bits == bits
    assert depth.is_certain == (depth.is_full or bits % 2 == 0)


# --------------------------------------------------------------------------- the standard's formula


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    allocated = draw(st.sampled_from([8, 16]))
    stored = draw(st.integers(8, allocated))
    slope = draw(st.sampled_from([1.0, -1.0, 0.5, 2.0]))
    return {
        "allocated": allocated,
        "stored": stored,
        "high": draw(st.integers(stored - 1, allocated - 1)),
        "signed": draw(st.booleans()),
        "slope": slope,
        "intercept": draw(st.sampled_from([0.0, -1024.0, 100.0])),
        "center": draw(st.floats(-0.2, 1.2)),
        "width": draw(st.floats(0.05, 4.0)),
        "photometric": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
    }


@given(header=headers())
def test_an_image_is_the_standards_formula_or_says_what_it_is_not(header: dict[str, Any]) -> None:
    """PS3.3 C.11.2.1.2.1: LINEAR, from stored values that the header describes truly."""
    stored, signed = header["stored"], header["signed"]
    span = (1 << stored) - 1
    low = -(1 << (stored - 1)) if signed else 0
    values = np.floor(FILM / 255 * span + 0.5).astype(np.int64) + low
    words = (values & span) << (header["high"] + 1 - stored)
    ends = sorted((low + end) * header["slope"] + header["intercept"] for end in (0, span))
    center = ends[0] + header["center"] * (ends[1] - ends[0])
    width = max(2.0, header["width"] * (ends[1] - ends[0]))
    assume(abs(header["slope"]) * span >= 100)
    center_text, width_text = f"{center:.8g}", f"{width:.8g}"
    elements = {
        "BitsStored": stored,
        "HighBit": header["high"],
        "PixelRepresentation": int(signed),
        "RescaleSlope": str(header["slope"]),
        "RescaleIntercept": str(header["intercept"]),
        "WindowCenter": center_text,
        "WindowWidth": width_text,
        "PhotometricInterpretation": header["photometric"],
    }
    radiograph = read(wrong_scales.dicom(words.astype(f"u{header['allocated'] // 8}"), elements))
    c, w = float(center_text), float(width_text)
    mapped = values * header["slope"] + header["intercept"]
    grey = np.clip((mapped - (c - 0.5)) / (w - 1) + 0.5, 0, 1)
    expected = np.floor((1 - grey if header["photometric"] == "MONOCHROME1" else grey) * 255 + 0.5)
    if radiograph.scale_fault:
        assert f"WindowCenter {c:g} and WindowWidth {w:g}" in radiograph.scale_fault
    if radiograph.scale_fault or not radiograph.caveats:
        assert np.abs(radiograph.pixels - expected).max() <= 1
    else:
        assert set(radiograph.caveats) <= {Caveat.WINDOW_CLIPS, Caveat.WINDOW_REPLACED}
