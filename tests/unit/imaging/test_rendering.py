"""From stored values to grey levels: each row of dirt that headers bring, and that everything clean comes back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from preread.core.types import Caveat, PixelArray
from preread.imaging import rendering
from preread.imaging.codecs.decoders import PixelModule
from preread.imaging.dicom_file import DicomFile
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

# Black and white in more than half a percent of the pixels, all levels between.
RAMP = np.concatenate([np.zeros((4, 256)), np.tile(np.arange(256), (60, 1)), np.full((4, 256), 255)]).astype(np.uint8)


def shown(stored: np.ndarray, *arguments: Any, **elements: Any) -> tuple[PixelArray, tuple[Caveat, ...]]:
    """Render stored values under a header that holds these elements as they are and does not contradict them."""
    image = rendered(stored, *arguments, **elements)
    assert not image.scale_fault
    return image.pixels, image.caveats


def rendered(
    stored: np.ndarray,
    bits: int = 12,
    photometric: str = "MONOCHROME2",
    *,
    signed: bool = False,
    little_endian: bool = True,
    **elements: Any,
) -> rendering.Rendered:
    """Render stored values under a header that holds these elements as they are."""
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, about values that are not as they should be: they are meant
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
    allocated = 8 * stored.dtype.itemsize
    rows, columns = stored.shape
    module = PixelModule(rows, columns, 1, allocated, bits, bits - 1, signed, photometric, 0)
    file = DicomFile(dataset, "1.2.840.10008.1.2.1", None, little_endian, b"", None)
    return rendering.render_grey_levels(stored, module, file)


def twelve(levels: PixelArray) -> np.ndarray:
    return np.asarray(np.floor(levels * (4095 / 255) + 0.5), np.uint16)


def apart(pixels: PixelArray, expected: np.ndarray = RAMP) -> int:
    return int(np.abs(pixels.astype(int) - expected).max())


def lut(values: np.ndarray | list[int] | bytes, first: int, bits: int, count: int, vr: str = "OW") -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count & 0xFFFF, first & 0xFFFF, bits])
    if isinstance(values, np.ndarray):
        values = values.astype("<u2").tobytes()
    item.add_new("LUTData", vr, values)
    return [item]


FULL_WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096"}


# --------------------------------------------------------------------------- clean films


@given(
    seed=st.integers(0, 50),
    syntax=st.sampled_from(sorted(set(phantoms.TRANSFER_SYNTAXES) - phantoms.LOSSY)),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    bits=st.sampled_from([8, 10, 12, 15, 16]),
    signed=st.booleans(),
    voi=st.sampled_from(["window", "exact", "lut", "none"]),
    rescale=st.sampled_from([(1.0, 0.0), (1.0, -1024.0), (-1.0, 4000.0), (0.5, 7.25), (2.0, 3.0)]),
)
def test_a_wrapped_phantom_comes_back(
    seed: int, syntax: str, photometric: str, bits: int, signed: bool, voi: str, rescale: tuple[float, float]
) -> None:
    """The strongest test of the pixel path: any clean wrapping of a film shows the film."""
    if voi == "lut":  # a table is indexed by whole numbers from -32768 on, 65536 of them
        rescale = (1.0, 0.0)
    film = phantoms.draw_chest(seed, rows=64, columns=72)
    encoding = Encoding(syntax, photometric, bits, signed, voi, *rescale)
    radiograph = decode_radiograph(read_image_header(phantoms.to_dicom(film, encoding, seed)))
    assert apart(radiograph.pixels, film) <= 1
    assert set(radiograph.caveats) <= {Caveat.NO_WINDOW}
    assert (Caveat.NO_WINDOW in radiograph.caveats) == (voi == "none" and (bits > 8 or signed or rescale != (1.0, 0.0)))


@given(
    syntax=st.sampled_from(sorted(phantoms.LOSSY)),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    bits=st.sampled_from([8, 10, 12]),
    voi=st.sampled_from(["window", "exact", "lut", "none"]),
)
def test_a_phantom_coded_with_loss_comes_back_nearly(syntax: str, photometric: str, bits: int, voi: str) -> None:
    film = phantoms.draw_chest(3, rows=64, columns=72)
    encoding = Encoding(syntax, photometric, 8 if syntax == "jpeg-baseline" else bits, voi=voi)
    radiograph = decode_radiograph(read_image_header(phantoms.to_dicom(film, encoding)))
    assert apart(radiograph.pixels, film) <= 12
    assert np.abs(radiograph.pixels.astype(int) - film).mean() <= 1
    assert Caveat.LOSSY in radiograph.caveats


# --------------------------------------------------------------------------- VOI LUT


def test_a_table_of_eight_bits_with_many_entries() -> None:
    """The index must not be held in the table's own eight bits."""
    table = np.floor(np.arange(4096) * (255 / 4095) + 0.5)
    assert apart(shown(twelve(RAMP), VOILUTSequence=lut(table, 0, 8, 4096))[0]) <= 1


def test_a_table_of_packed_bytes() -> None:
    table = np.floor(np.arange(4096) * (255 / 4095) + 0.5).astype(np.uint8).tobytes()
    assert apart(shown(twelve(RAMP), VOILUTSequence=lut(table, 0, 8, 4096))[0]) <= 1


def test_a_table_that_declares_more_bits_than_it_holds() -> None:
    """Agfa and GE declare 16 bits for tables of 12; scaled by the declared ones they would be nearly black."""
    assert apart(shown(twelve(RAMP), VOILUTSequence=lut(np.arange(4096), 0, 16, 4096))[0]) <= 1


def test_a_table_written_as_numbers() -> None:
    numbers = [int(v) for v in np.arange(4096)]
    assert apart(shown(twelve(RAMP), VOILUTSequence=lut(numbers, 0, 12, 4096, vr="US"))[0]) <= 1


def test_a_big_endian_table() -> None:
    table = np.arange(4096).astype(">u2").tobytes()
    assert apart(shown(twelve(RAMP), little_endian=False, VOILUTSequence=lut(table, 0, 12, 4096))[0]) <= 1


def test_a_table_of_65536_entries_counts_as_zero() -> None:
    stored = (RAMP.astype(np.uint16)) * 257
    assert apart(shown(stored, 16, VOILUTSequence=lut(np.arange(65536), 0, 16, 65536))[0]) <= 1


def test_a_table_with_a_negative_first_value_written_as_unsigned() -> None:
    stored = (twelve(RAMP).astype(np.int32) - 2048).astype(np.int16)
    pixels, _ = shown(stored, signed=True, VOILUTSequence=lut(np.arange(4096), -2048, 12, 4096))
    assert apart(pixels) <= 1


def test_a_table_behind_a_rescale_of_one() -> None:
    elements: dict[str, Any] = {
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "VOILUTSequence": lut(np.arange(4096), 0, 12, 4096),
    }
    pixels, caveats = shown(twelve(RAMP), **elements)
    assert apart(pixels, shown(twelve(RAMP), **FULL_WINDOW)[0].astype(int)) <= 1
    assert caveats == ()


def test_a_table_comes_before_a_window() -> None:
    turned = lut(4095 - np.arange(4096), 0, 12, 4096)
    assert apart(shown(twelve(RAMP), VOILUTSequence=turned, **FULL_WINDOW)[0], 255 - RAMP.astype(int)) <= 1


@pytest.mark.parametrize(
    "broken",
    [
        lut(np.zeros(4096), 0, 12, 4096),
        lut(np.arange(100), 0, 12, 4096),
        lut(b"", 0, 12, 4096),
        lut(np.arange(4096), 0, 0, 4096),
        [Dataset()],
        [],
    ],
    ids=["one level", "too short", "empty", "no bits", "no table", "no item"],
)
def test_a_broken_table_leaves_the_window(broken: list[Dataset]) -> None:
    assert shown(twelve(RAMP), VOILUTSequence=broken, **FULL_WINDOW)[0].tolist() == (
        shown(twelve(RAMP), **FULL_WINDOW)[0].tolist()
    )


# --------------------------------------------------------------------------- modality


def test_a_modality_table_with_a_negative_first_value_on_unsigned_data() -> None:
    table = np.concatenate([np.zeros(100), np.arange(4096)])
    image = rendered(twelve(RAMP), ModalityLUTSequence=lut(table, -100, 16, 4196), **FULL_WINDOW)
    # -100 is read as 65436 where no value is below zero: every value is then below the first one mapped
    assert image.pixels.max() == 0
    assert image.scale_fault == (
        "WindowCenter 2048 and WindowWidth 4096 show the image in grey levels from 0 to 0 of 255; "
        "the stored values lie between 0 and 4095"
    )


def test_a_modality_table_that_declares_twelve_bits() -> None:
    pixels, _ = shown(twelve(RAMP), ModalityLUTSequence=lut(4095 - np.arange(4096), 0, 12, 4096), **FULL_WINDOW)
    assert apart(pixels, 255 - RAMP.astype(int)) <= 1


def test_an_empty_slope_is_absent() -> None:
    assert apart(shown(twelve(RAMP), RescaleSlope=None, RescaleIntercept=None, **FULL_WINDOW)[0]) <= 1


def test_a_slope_of_zero_is_ignored_and_said() -> None:
    pixels, caveats = shown(twelve(RAMP), RescaleSlope="0", RescaleIntercept="0", **FULL_WINDOW)
    assert apart(pixels) <= 1
    assert caveats == (Caveat.RESCALE_IGNORED,)


def test_a_falling_slope_turns_the_film_round() -> None:
    pixels, _ = shown(twelve(RAMP), RescaleSlope="-1", RescaleIntercept="4095", **FULL_WINDOW)
    assert apart(pixels, 255 - RAMP.astype(int)) <= 1


# --------------------------------------------------------------------------- window


@pytest.mark.parametrize("width", ["0", "-5", "", None, "1e400"])
def test_an_unusable_window_is_none(width: str | None) -> None:
    pixels, caveats = shown(twelve(RAMP), WindowCenter="2048", WindowWidth=width)
    assert apart(pixels) <= 1
    assert caveats == (Caveat.NO_WINDOW,)


def test_the_first_usable_of_several_windows() -> None:
    pixels, caveats = shown(twelve(RAMP), WindowCenter=["100", "2048", "50"], WindowWidth=["0", "4096", "10"])
    assert apart(pixels) <= 1
    assert caveats == ()


@pytest.mark.parametrize("function", ["", "LINEAR ", "linear", "NONSENSE", None])
def test_the_linear_window_of_the_standard(function: str | None) -> None:
    """PS3.3 C.11.2.1.2.1: at the centre minus a half lies the middle, and width minus one is the span."""
    stored = np.tile(np.array([0, 10, 11, 14, 19, 20, 4095], np.uint16), (64, 10))
    pixels, _ = shown(stored, WindowCenter="15.5", WindowWidth="11", VOILUTFunction=function)
    assert pixels[0, :7].tolist() == [0, 0, 26, 102, 230, 255, 255]


def test_linear_exact_and_sigmoid() -> None:
    stored = np.tile(np.array([0, 1000, 2000, 3000, 4000], np.uint16), (64, 10))
    window: dict[str, Any] = {"WindowCenter": "2000", "WindowWidth": "4000"}
    exact, _ = shown(stored, VOILUTFunction="LINEAR_EXACT", **window)
    assert exact[0, :5].tolist() == [0, 64, 128, 191, 255]
    sigmoid, caveats = shown(stored, VOILUTFunction="SIGMOID", **window)
    expected = [255 / (1 + np.exp(-4 * (x - 2000) / 4000)) for x in (0, 1000, 2000, 3000, 4000)]
    assert np.abs(sigmoid[0, :5] - np.array(expected)).max() <= 0.5
    assert caveats == ()


def test_a_width_of_one_shows_no_film() -> None:
    pixels, caveats = shown(twelve(RAMP), WindowCenter="100", WindowWidth="1")
    assert apart(pixels) <= 1
    assert caveats == (Caveat.WINDOW_CLIPS,)


@pytest.mark.parametrize("center", ["60000", "-60000"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_that_misses_the_film_is_said(center: str, function: str) -> None:
    pixels, caveats = shown(twelve(RAMP), WindowCenter=center, WindowWidth="100", VOILUTFunction=function)
    assert apart(pixels) <= 1
    assert caveats == (Caveat.WINDOW_CLIPS,)


def test_a_window_that_cuts_a_part_is_the_films_own() -> None:
    pixels, caveats = shown(twelve(RAMP), WindowCenter="2600", WindowWidth="3000")
    assert (pixels == 0).mean() > 0.25
    assert caveats == ()


@pytest.mark.parametrize(
    "center, width, photometric, lost",
    [
        ("3600", "1000", "MONOCHROME2", "64.1% of the pixels as the same black"),
        ("1000", "2000", "MONOCHROME2", "44.8% of the pixels as the same white"),
        ("1000", "2000", "MONOCHROME1", "40.7% of the pixels as the same black"),
        ("2048", "40000", "MONOCHROME2", "the image in grey levels from 114 to 141 of 255"),
    ],
)
def test_a_window_that_cannot_be_meant_is_a_fault(center: str, width: str, photometric: str, lost: str) -> None:
    image = rendered(twelve(RAMP), photometric=photometric, WindowCenter=center, WindowWidth=width)
    assert image.scale_fault == (
        f"WindowCenter {center} and WindowWidth {width} show {lost}; the stored values lie between 0 and 4095"
    )
    assert image.caveats == ()


def test_a_film_of_one_level_is_black_and_does_not_fail() -> None:
    for value in (0, 7, 4095):
        pixels, caveats = shown(np.full((64, 64), value, np.uint16))
        assert not pixels.any()
        assert caveats == (Caveat.NO_WINDOW,)


def test_outliers_do_not_set_the_range() -> None:
    stored = twelve(RAMP) // 4
    stored[0, :3] = 4095
    assert np.percentile(shown(stored)[0], 99) > 250


# --------------------------------------------------------------------------- polarity and padding


def test_monochrome1_is_turned_last_and_not_by_its_own_extremes() -> None:
    """A film that uses half its range must not be stretched by turning it."""
    stored = twelve(RAMP) // 2
    pixels, _ = shown(stored, photometric="MONOCHROME1", **FULL_WINDOW)
    assert apart(pixels, 255 - np.floor(RAMP / 2 + 0.5)) <= 1


@pytest.mark.parametrize(
    "photometric, shape, conflict",
    [
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", None, False),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_the_presentation_shape_changes_nothing_but_a_conflict_is_said(
    photometric: str, shape: str | None, conflict: bool
) -> None:
    pixels, caveats = shown(twelve(RAMP), photometric=photometric, PresentationLUTShape=shape, **FULL_WINDOW)
    assert apart(pixels, RAMP if photometric == "MONOCHROME2" else 255 - RAMP.astype(int)) <= 1
    assert caveats == ((Caveat.POLARITY_CONFLICT,) if conflict else ())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(photometric: str) -> None:
    stored = twelve(RAMP) // 8 + 100
    stored[:30] = 4000
    stored[0, 0] = 4001
    pixels, _ = shown(stored, photometric=photometric, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    assert not pixels[:30].any()
    assert np.ptp(pixels[30:]) >= 250


def test_signed_padding_written_as_unsigned() -> None:
    stored = (twelve(RAMP).astype(np.int32) - 2048).astype(np.int16)
    stored[:10] = -2047
    pixels, _ = shown(stored, signed=True, PixelPaddingValue=0x10000 - 2047, WindowCenter="0", WindowWidth="4096")
    assert not pixels[:10].any()
    assert apart(pixels[10:], RAMP[10:]) <= 1


# --------------------------------------------------------------------------- bits


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_stored_ones_are_cut(signed: bool) -> None:
    """Retired overlays lie there; some writers leave noise."""
    film = phantoms.draw_chest(2, rows=64, columns=64)
    data = phantoms.to_dicom(film, Encoding(bits=12, signed=signed))
    header = read_image_header(data)
    file = header.file
    assert file is not None
    assert file.pixels is not None
    start = file.pixels.start
    words = np.frombuffer(data[start : start + 2 * film.size], "<u2") & 0x0FFF
    dirty = data[:start] + (words | 0x5000).astype("<u2").tobytes() + data[start + 2 * film.size :]
    assert apart(decode_radiograph(read_image_header(dirty)).pixels, film) <= 1


def test_a_high_bit_above_the_usual_place_is_heeded() -> None:
    film = phantoms.draw_chest(2, rows=64, columns=64)
    data = phantoms.to_dicom(film, Encoding(bits=12))
    header = read_image_header(data)
    assert header.file is not None
    assert header.file.pixels is not None
    start = header.file.pixels.start
    words = np.frombuffer(data[start : start + 2 * film.size], "<u2") << 4
    element = b"\x28\x00\x02\x01US\x02\x00"
    moved = data[:start].replace(element + b"\x0b\x00", element + b"\x0f\x00")
    assert moved != data[:start]
    assert apart(decode_radiograph(read_image_header(moved + words.astype("<u2").tobytes())).pixels, film) <= 1
