"""Rendering of stored values to grey levels (PS3.4 N.2.1.1, PS3.3 C.11).

Modality LUT, VOI and, last, MONOCHROME1 are combined in one table of at most 65536 grey levels in which every stored
value is looked up, so that no floating-point copy of the image is made. The histogram is computed only if needed.
Invalid headers are interpreted as viewers do; a contradiction that could change the image becomes a caveat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from preread.core.errors import BrokenHeader, UnsupportedPixels
from preread.core.types import Caveat, PixelArray
from preread.imaging import elements
from preread.imaging.codecs.decoders import PixelModule, Stored
from preread.imaging.dicom_file import DicomFile
from preread.imaging.raster import require_grey

Levels = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_CLIPPED_SHARE_MAX = 0.9
_STRETCH = (0.005, 0.995)
_BITS_MAX = 16
# Pixels per step, so that a step fits in a core's cache.
_COUNTED_PX = 1 << 18
_LOOKED_UP_PX = 1 << 15
# Largest deviation of a neutral colour difference after lossy coding.
_CHROMA_APART_MAX = 16
_PRIMARIES = ("Red", "Green", "Blue")


@dataclass(frozen=True, slots=True)
class _Voi:
    """A VOI transformation of all stored values.

    Attributes:
        grey: float64 [entries], in [0, 1].
        outside: bool [entries], true for values beyond its ends, whose differences are lost.
    """

    grey: Levels
    outside: npt.NDArray[np.bool_]


def render_grey_levels(values: Stored, module: PixelModule, file: DicomFile) -> tuple[PixelArray, tuple[Caveat, ...]]:
    """Render stored values of a DICOM image to grey levels for display.

    Args:
        values: integers of 8 or 16 bits, [rows, columns], or [rows, columns, 3] for colour.
        module: checked Image Pixel Module of the image.
        file: the parsed DICOM file.

    Returns:
        uint8 [rows, columns], 0 = black, 255 = white, and the assumptions made.

    Raises:
        ColourNotGrey: the channels of a colour image differ.
        BrokenHeader: the colour palette is missing or broken.
        UnsupportedPixels: the image is in colour of more than 8 bits.
    """
    if module.samples_per_pixel == 3:
        return _grey_of_colour(values, module), ()
    if module.photometric_interpretation == "PALETTE COLOR":
        return _grey_of_palette(values, file), ()
    caveats: list[Caveat] = []
    dataset = file.dataset
    entries = _entries(values.dtype)
    padding = _padding(dataset, module, entries)
    mapped = _modality(dataset, file.little_endian, entries, caveats)
    grey = _voi(dataset, file.little_endian, mapped, _Histogram(values, padding), module, caveats)
    if module.photometric_interpretation == "MONOCHROME1":
        grey = 1.0 - grey
    table = np.floor(grey * 255.0 + 0.5).astype(np.uint8)
    table[padding] = 0
    shape = elements.read_code_string(dataset, "PresentationLUTShape")
    if shape and (shape == "INVERSE") != (module.photometric_interpretation == "MONOCHROME1"):
        # Fuji CR and others write it wrongly; as in viewers, the photometric interpretation takes precedence.
        caveats.append(Caveat.POLARITY_CONFLICT)
    return _look_up(table, values), tuple(caveats)


def _indices(values: Stored) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return values as unsigned indices of a table in two's complement order."""
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def _entries(dtype: np.dtype[np.integer[Any]]) -> Levels:
    """Return all values of an integer type as float64, as ``_indices``."""
    unsigned = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return unsigned.view(dtype).astype(np.float64)


def _index_parts(values: Stored, size: int) -> Iterator[npt.NDArray[np.unsignedinteger[Any]]]:
    """Yield the values of an image as indices, in parts.

    numpy converts indices to 64 bits; those of a part fit in the cache.
    """
    flat = _indices(values).reshape(-1)
    for begin in range(0, flat.size, size):
        yield flat[begin : begin + size]


def _look_up(table: PixelArray, values: Stored) -> PixelArray:
    """Look up every value: uint8 [values.shape].

    No index is out of range; mode "clip" is faster than the check.
    """
    grey = np.empty(values.shape, np.uint8)
    flat = grey.reshape(-1)
    for number, part in enumerate(_index_parts(values, _LOOKED_UP_PX)):
        begin = number * _LOOKED_UP_PX
        np.take(table, part, out=flat[begin : begin + part.size], mode="clip")
    return grey


class _Histogram:
    """Histogram of stored values without padding, if there is anything else."""

    def __init__(self, values: Stored, padding: npt.NDArray[np.bool_]) -> None:
        self._values = values
        self._padding = padding

    @cached_property
    def counts(self) -> Counts:
        """Number of pixels of each value: int64 [entries], as ``_indices``."""
        size = self._padding.size
        counts = np.zeros(size, np.int64)
        for part in _index_parts(self._values, _COUNTED_PX):
            counts += np.bincount(part, minlength=size)
        without_padding = np.where(self._padding, 0, counts)
        return without_padding if without_padding.any() else counts

    def are_mostly(self, outside: npt.NDArray[np.bool_]) -> bool:
        """Return whether more than 90 % of the pixels have these values.

        For most images the first few rows suffice to return ``False``.

        Args:
            outside: bool [entries].
        """
        table, inside, size = ~(outside | self._padding), 0, self._values.size
        for part in _index_parts(self._values, _LOOKED_UP_PX):
            inside += int(np.count_nonzero(np.take(table, part, mode="clip")))
            if size - inside <= _CLIPPED_SHARE_MAX * size:
                return False
        return int(self.counts[outside].sum()) > _CLIPPED_SHARE_MAX * int(self.counts.sum())


def _padding(dataset: Dataset, module: PixelModule, entries: Levels) -> npt.NDArray[np.bool_]:
    """Return which values are padding: bool [entries] (PS3.3 C.7.5.1.1.2).

    A limit that the stored bits cannot hold ends the range at the last value that they can; a range of all values says
    nothing, and only PixelPaddingValue counts.
    """
    value = _stored_tag(dataset, "PixelPaddingValue", module)
    if value is None:
        return np.zeros(entries.size, np.bool_)
    limit = _stored_tag(dataset, "PixelPaddingRangeLimit", module)
    low, high = sorted((value, value if limit is None else limit))
    lowest = -(1 << (module.bits_stored - 1)) if module.signed else 0
    if low <= lowest and high >= lowest + (1 << module.bits_stored) - 1:
        low = high = value
    return (entries >= low) & (entries <= high)


def _stored_tag(dataset: Dataset, keyword: str, module: PixelModule) -> int | None:
    """Read an element in pixel units, whatever its sign was written as."""
    stored = elements.read_integer(dataset, keyword)
    if stored is None:
        raw = elements.read_value(dataset, keyword)
        stored = int.from_bytes(raw[:2], "little") if isinstance(raw, bytes) and len(raw) >= 2 else None
    if stored is None or not module.signed:
        return None if stored is None else stored & 0xFFFF
    if 1 << (module.bits_stored - 1) <= stored < 1 << module.bits_stored:  # the stored bits, without their sign
        return stored - (1 << module.bits_stored)
    return ((stored & 0xFFFF) ^ 0x8000) - 0x8000


def _modality(dataset: Dataset, little_endian: bool, entries: Levels, caveats: list[Caveat]) -> Levels:
    """Apply Modality LUT or rescale (PS3.3 C.11.1): float64 [entries]."""
    for item in elements.read_sequence_items(dataset, "ModalityLUTSequence"):
        lut = _read_lut(item, little_endian, signed=bool(entries.min() < 0))
        if lut is not None:
            mapped: Levels = lut.output[np.clip(entries.astype(np.int64) - lut.first, 0, lut.output.size - 1)]
            return mapped
    slope, intercept = elements.read_number(dataset, "RescaleSlope"), elements.read_number(dataset, "RescaleIntercept")
    if slope == 0:
        caveats.append(Caveat.RESCALE_IGNORED)
        return entries
    return entries * (1.0 if slope is None else slope) + (intercept or 0.0)


def _voi(
    dataset: Dataset,
    little_endian: bool,
    mapped: Levels,
    histogram: _Histogram,
    module: PixelModule,
    caveats: list[Caveat],
) -> Levels:
    """Apply the VOI LUT, else the window, else stretch (PS3.3 C.11.2).

    Several are alternatives of equal rank, of which viewers show the first; unusable ones are skipped.

    Returns:
        float64 [entries], in [0, 1].
    """
    voi = _voi_lut(dataset, little_endian, mapped)
    if voi is None:
        voi = _window(dataset, mapped)
    if voi is None and module.bits_stored <= 8 and not module.signed and mapped[0] == 0 and mapped[1] == 1:
        return np.clip(mapped / ((1 << module.bits_stored) - 1), 0.0, 1.0)  # already grey levels
    if voi is None:
        caveats.append(Caveat.NO_WINDOW)
        return _stretch(mapped, histogram.counts)
    if histogram.are_mostly(voi.outside):
        caveats.append(Caveat.WINDOW_CLIPS)
        return _stretch(mapped, histogram.counts)
    return voi.grey


def _voi_lut(dataset: Dataset, little_endian: bool, mapped: Levels) -> _Voi | None:
    for item in elements.read_sequence_items(dataset, "VOILUTSequence"):
        lut = _read_lut(item, little_endian, signed=bool(mapped.min() < 0))
        if lut is None or lut.output.min() == lut.output.max():
            continue  # a table with one grey level shows nothing
        # Of 8 and 16, which PS3.3 C.11.2.1.1 offers, Agfa and GE declare 16 for tables of 12 or 14 bits, which would be
        # nearly black; any other number is meant.
        declared = lut.bits if lut.bits < _BITS_MAX else 8
        top = (1 << max(int(lut.output.max()).bit_length(), declared)) - 1
        index = np.floor(mapped + 0.5).astype(np.int64) - lut.first
        outside = (index < 0) | (index >= lut.output.size)
        return _Voi(lut.output[np.clip(index, 0, lut.output.size - 1)] / top, outside)
    return None


def _window(dataset: Dataset, mapped: Levels) -> _Voi | None:
    centers, widths = elements.read_numbers(dataset, "WindowCenter"), elements.read_numbers(dataset, "WindowWidth")
    function = elements.read_code_string(dataset, "VOILUTFunction") or "LINEAR"
    for center, width in zip(centers, widths, strict=False):
        if center is None or width is None or width <= 0:
            continue
        if function == "SIGMOID":
            grey = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (mapped - center) / width, -700.0, 700.0)))
            return _Voi(grey, (grey < 0.01) | (grey > 0.99))
        if function == "LINEAR_EXACT" or width <= 1:  # LINEAR has no meaning below 1 and divides by 0 at 1
            low, span = center - width / 2, width
        else:
            low, span = center - 0.5 - (width - 1) / 2, width - 1
        high = low + span
        grey = np.clip((mapped - low) / span, 0.0, 1.0)
        return _Voi(grey, (mapped < low) | (mapped > high))
    return None


def _stretch(mapped: Levels, counts: Counts) -> Levels:
    """Stretch the range between the 0.5th and 99.5th percentile to [0, 1]."""
    order = np.argsort(mapped, kind="stable")
    cumulated = np.cumsum(counts[order])
    low, high = (
        mapped[order[min(int(np.searchsorted(cumulated, share * cumulated[-1])), order.size - 1)]] for share in _STRETCH
    )
    if high <= low:
        low, high = mapped[counts > 0].min(), mapped[counts > 0].max()
    if high <= low:
        return np.zeros_like(mapped)
    stretched: Levels = np.clip((mapped - low) / (high - low), 0.0, 1.0)
    return stretched


@dataclass(frozen=True, slots=True)
class _Lut:
    """A lookup table (PS3.3 C.11.1.1.1).

    Attributes:
        first: value that is mapped to ``output[0]``, like all below it.
        bits: declared bits of the output.
        output: float64 [entries], 0 to 65535.
    """

    first: int
    bits: int
    output: Levels


def _read_lut(
    item: Dataset,
    little_endian: bool,
    descriptor_keyword: str = "LUTDescriptor",
    data_keyword: str = "LUTData",
    *,
    signed: bool,
) -> _Lut | None:
    """Read a lookup table: numbers, 16-bit words or packed bytes.

    Args:
        item: Data Set with the table.
        little_endian: byte order of the Data Set.
        descriptor_keyword: keyword of the descriptor.
        data_keyword: keyword of the data.
        signed: the values to look up may be negative; the first value mapped is then read as signed.

    Returns:
        ``None`` if the table is missing or broken.
    """
    order = "<" if little_endian else ">"
    descriptor = _integers(elements.read_value(item, descriptor_keyword), f"{order}u2")
    raw = elements.read_value(item, data_keyword)
    if descriptor is None or descriptor.size < 3 or raw is None:
        return None
    count, first, bits = (int(v) for v in descriptor[:3])
    count = (count & 0xFFFF) or 0x10000
    first = (first & 0xFFFF) - 0x10000 if signed and first > 0x7FFF else first
    bits = bits & 0xFFFF
    packed = isinstance(raw, bytes) and bits <= 8 and count <= len(raw) < 2 * count
    output = _integers(raw, "u1" if packed else f"{order}u2")
    if output is None or output.size == 0 or not 0 < bits <= 16:
        return None
    if output.size < count:
        return None
    output = output[:count] & 0xFFFF
    return _Lut(first, bits, output.astype(np.float64))


def _integers(content: object, dtype: str) -> npt.NDArray[np.int64] | None:
    """Return numbers or bytes as int64; ``None`` if it is neither."""
    try:
        if isinstance(content, bytes):
            width = np.dtype(dtype).itemsize
            return np.frombuffer(content[: len(content) // width * width], dtype).astype(np.int64)
        return np.atleast_1d(np.asarray(content, dtype=np.int64))
    except elements.PARSE_ERRORS:
        return None


def _grey_of_colour(values: Stored, module: PixelModule) -> PixelArray:
    """Return the grey levels of a colour image: uint8 [rows, columns].

    No window is applied to colour (PS3.3 C.11.2.1.2).
    """
    if values.dtype.itemsize != 1 or module.bits_stored != 8:
        raise UnsupportedPixels(
            f"The image is in colour with BitsStored {module.bits_stored}; colour is supported with 8 bits only."
        )
    channels = np.ascontiguousarray(values).view(np.uint8)
    if _is_neutral(channels[:, :, 1]) and _is_neutral(channels[:, :, 2]):
        return np.ascontiguousarray(channels[:, :, 0])  # luminance and two neutral colour differences
    require_grey(channels)
    return np.ascontiguousarray(channels[:, :, 0])


def _is_neutral(chroma: PixelArray) -> bool:
    away = (chroma < 128 - _CHROMA_APART_MAX) | (chroma > 128 + _CHROMA_APART_MAX)
    return int(np.count_nonzero(away)) * 1000 <= chroma.size


def _grey_of_palette(values: Stored, file: DicomFile) -> PixelArray:
    """Look up colours (PS3.3 C.7.6.3.1.5) and return their grey levels."""
    try:
        if "SegmentedRedPaletteColorLookupTableData" in file.dataset and file.little_endian:
            colours = np.asarray(apply_color_lut(_indices(values), file.dataset))
            channels = (colours >> (8 * (colours.dtype.itemsize - 1))).astype(np.uint8)[:, :, :3]
        else:  # pydicom does not swap the bytes of a big-endian palette
            channels = np.stack([_palette(file, colour)[_indices(values)] for colour in _PRIMARIES], axis=-1)
    except elements.PARSE_ERRORS:
        raise BrokenHeader("The colour palette cannot be used: its elements are missing or broken.") from None
    require_grey(channels)
    return np.ascontiguousarray(channels[:, :, 0])


def _palette(file: DicomFile, colour: str) -> PixelArray:
    """Return one primary for each 16-bit index: uint8 [65536]."""
    keyword = f"{colour}PaletteColorLookupTable"
    lut = _read_lut(file.dataset, file.little_endian, f"{keyword}Descriptor", f"{keyword}Data", signed=False)
    if lut is None:
        raise BrokenHeader(f"The element {keyword}Descriptor or {keyword}Data is missing or broken.")
    top = lut.output.max()
    wide = lut.bits > 8 and top > 0xFF  # some declare 16 bits and write 8
    entries = np.clip(np.arange(0x10000) - lut.first, 0, lut.output.size - 1)
    return (lut.output[entries] / (257 if wide else 1)).astype(np.uint8)
