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
from preread.imaging.codecs.stored_bits import find_depth
from preread.imaging.dicom_file import DicomFile
from preread.imaging.raster import require_grey
from preread.imaging.statistics import GREY_LEVEL_SPREAD_MIN, grey_level_range

Levels = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_CLIPPED_SHARE_MAX = 0.9
_STRETCH = (0.005, 0.995)
_BITS_MAX = 16
_GREY_BITS = 8
# Pixels of the sample that a window is compared with.
_SAMPLE_PX = 1 << 20
_STORED_RANGE_MIN = 8
# Largest share of the pixels beyond the end of a window that shows white, and far beyond the one that shows black. In
# the 5,216 training images at most 6 % are white. Of images that lose more, over 2 % get another answer.
_WHITE_SHARE_MAX = 0.1
_BLACK_SHARE_MAX = 0.2
# The same for a window that shows the full range of fewer bits than are stored.
_NARROW_SHARE_MAX = 0.01
# No device stores so many bits: a window for them is wrong if all values have fewer.
_UNUSUAL_DEPTHS = frozenset({9, 11, 13})
# Far beyond: by this share of the window's width. Collimated borders and air lie a little below most windows.
_FAR = 0.1
# Pixels per step, so that a step fits in a core's cache.
_COUNTED_PX = 1 << 18
_LOOKED_UP_PX = 1 << 15
# Largest deviation of a neutral colour difference after lossy coding.
_CHROMA_APART_MAX = 16
_PRIMARIES = ("Red", "Green", "Blue")


@dataclass(frozen=True, slots=True)
class Rendered:
    """An image as it is displayed.

    Attributes:
        pixels: uint8 [rows, columns], 0 = black, 255 = white.
        caveats: assumptions made.
        scale_fault: elements, their values and the found range if the image cannot be meant to look like this; empty
            otherwise.
    """

    pixels: PixelArray
    caveats: tuple[Caveat, ...] = ()
    scale_fault: str = ""


@dataclass(frozen=True, slots=True)
class _Voi:
    """A VOI transformation of all stored values.

    Attributes:
        grey: float64 [entries], in [0, 1].
        outside: bool [entries], true for values beyond its ends, whose differences are lost.
        far_outside: bool [entries], true for values beyond its ends by more than a tenth of its width.
        stated: elements and their values, for messages.
        bits: the window shows the full range of so many bits, and no other; ``None`` if it does not.
    """

    grey: Levels
    outside: npt.NDArray[np.bool_]
    far_outside: npt.NDArray[np.bool_]
    stated: str
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Result of the modality transformation.

    Attributes:
        values: float64 [entries].
        slope: of the rescale; 0.0 for a Modality LUT.
    """

    values: Levels
    slope: float = 1.0


def render_grey_levels(
    values: Stored,
    module: PixelModule,
    file: DicomFile,
    stated_bits: int | None = None,
    padding_beyond: int | None = None,
) -> Rendered:
    """Render stored values of a DICOM image to grey levels for display.

    Args:
        values: integers of 8 or 16 bits, [rows, columns], or [rows, columns, 3] for colour.
        module: checked Image Pixel Module of the image, with the stored bits and sign that were found.
        file: the parsed DICOM file.
        stated_bits: BitsStored of the header if other stored bits were found.
        padding_beyond: value of padding whose words reach beyond the stored bits, if there is any.

    Raises:
        ColourNotGrey: the channels of a colour image differ.
        BrokenHeader: the colour palette is missing or broken.
        UnsupportedPixels: the image is in colour of more than 8 bits.
    """
    if module.samples_per_pixel == 3:
        return Rendered(_grey_of_colour(values, module))
    if module.photometric_interpretation == "PALETTE COLOR":
        return Rendered(_grey_of_palette(values, file))
    caveats: list[Caveat] = []
    dataset = file.dataset
    entries = _entries(values.dtype)
    padding = _padding(dataset, module, entries)
    if padding_beyond is not None:
        padding |= entries == padding_beyond
    mapped = _modality(dataset, file.little_endian, entries, caveats)
    display = _Display(_Histogram(values, padding), entries, mapped, module, stated_bits or module.bits_stored)
    grey, fault = _voi(file, display, caveats)
    if module.photometric_interpretation == "MONOCHROME1":
        grey = 1.0 - grey
    table = np.floor(grey * 255.0 + 0.5).astype(np.uint8)
    table[padding] = 0
    shape = elements.read_code_string(dataset, "PresentationLUTShape")
    if shape and (shape == "INVERSE") != (module.photometric_interpretation == "MONOCHROME1"):
        # Fuji CR and others write it wrongly; as in viewers, the photometric interpretation takes precedence.
        caveats.append(Caveat.POLARITY_CONFLICT)
    return Rendered(_look_up(table, values), tuple(caveats), fault)


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
        return self._count(self._values)

    @cached_property
    def sample(self) -> Counts:
        """Number of pixels of each value in rows that are evenly distributed: int64 [entries]."""
        step = -(-self._values.size // _SAMPLE_PX)
        return self.counts if step == 1 else self._count(np.ascontiguousarray(self._values[::step]))

    def highest(self) -> int:
        """Return the highest value, padding included."""
        return int(self._values.max())

    def _count(self, values: Stored) -> Counts:
        size = self._padding.size
        counts = np.zeros(size, np.int64)
        for part in _index_parts(values, _COUNTED_PX):
            counts += np.bincount(part, minlength=size)
        without_padding = np.where(self._padding, 0, counts)
        return without_padding if without_padding.any() else counts


@dataclass(frozen=True, slots=True)
class _Display:
    """Stored values of an image, and what a VOI transformation makes of them.

    Attributes:
        histogram: of the stored values.
        entries: all stored values: float64 [entries].
        mapped: result of the modality transformation.
        module: Image Pixel Module with the stored bits and sign that were found.
        stated_bits: BitsStored of the header.
    """

    histogram: _Histogram
    entries: Levels
    mapped: _Mapped
    module: PixelModule
    stated_bits: int

    def fit(self, voi: _Voi, caveats: list[Caveat]) -> tuple[Levels, str]:
        """Return the grey levels of a VOI transformation, replaced if its true scale is certain.

        Returns:
            float64 [entries] in [0, 1], and its fault; empty if it has none.
        """
        misfit = self.misfit(voi)
        for bits in self._true_depths(voi, is_misfit=bool(misfit)):
            replacement = self.full_range(bits)
            if not self.misfit(replacement):
                caveats.append(Caveat.WINDOW_REPLACED)
                return replacement.grey, ""
        if misfit and self._share(voi.outside, self.histogram.counts) > _CLIPPED_SHARE_MAX:
            caveats.append(Caveat.WINDOW_CLIPS)
            return _stretch(self.mapped.values, self.histogram.counts), ""
        return voi.grey, misfit

    def full_range(self, bits: int) -> _Voi:
        """Return the VOI transformation that shows the full range of so many bits."""
        low = -(1 << (bits - 1)) if self.module.signed else 0
        position = (self.entries - low) / ((1 << bits) - 1)
        grey = np.clip(position if self.mapped.slope > 0 else 1.0 - position, 0.0, 1.0)
        outside = (position < 0) | (position > 1)
        return _Voi(grey, outside, outside, f"the full range of {bits} bits", bits)

    def full_range_bits(self, low: float, high: float) -> int | None:
        """Return of how many bits a window shows the full range, and no other.

        Args:
            low: lower end of the window, after the modality transformation.
            high: its upper end.
        """
        slope = self.mapped.slope
        if not slope:
            return None
        ends = sorted((end - self.mapped.values[0]) / slope for end in (low, high))
        for bits in range(_GREY_BITS, 17):
            first = -(1 << (bits - 1)) if self.module.signed else 0
            tolerance = 1.5 + (1 << bits) / 2048
            if abs(ends[0] - first) <= tolerance and abs(ends[1] - (first + (1 << bits) - 1)) <= tolerance:
                return bits
        return None

    def misfit(self, voi: _Voi) -> str:
        """Return why an image cannot be meant to look like this; empty if it can."""
        if not self._find_misfit(voi, self.histogram.sample):
            return ""
        return self._find_misfit(voi, self.histogram.counts)

    def _find_misfit(self, voi: _Voi, counts: Counts) -> str:
        present = self.entries[counts > 0]
        low, high = present.min(), present.max()
        if high - low < _STORED_RANGE_MIN:
            return ""  # blank, whatever the window
        shown = 1.0 - voi.grey if self.module.photometric_interpretation == "MONOCHROME1" else voi.grey
        is_narrow = voi.bits is not None and voi.bits < self.module.bits_stored
        inner = (self.entries > low) & (self.entries < high)  # the ends may be collimation or a shutter
        for name, end, beyond, limit in (
            ("white", shown > 0.5, voi.outside, _WHITE_SHARE_MAX),
            ("black", shown <= 0.5, voi.far_outside, _BLACK_SHARE_MAX),
        ):
            lost = end & (voi.outside if is_narrow else beyond & inner)
            share = self._share(lost, counts)
            if share > (_NARROW_SHARE_MAX if is_narrow else limit):
                return (
                    f"{voi.stated} show {share:.1%} of the pixels as the same {name}; the stored values lie between "
                    f"{low:g} and {high:g}"
                )
        levels = np.floor(shown * 255.0 + 0.5).astype(np.int64)
        darkest, brightest = grey_level_range(np.bincount(levels, weights=counts, minlength=256))
        if brightest - darkest >= GREY_LEVEL_SPREAD_MIN:
            return ""
        return (
            f"{voi.stated} show the image in grey levels from {darkest} to {brightest} of 255; the stored values lie "
            f"between {low:g} and {high:g}"
        )

    def _true_depths(self, voi: _Voi, *, is_misfit: bool) -> list[int]:
        """Return numbers of bits whose full range the window must have meant."""
        if voi.bits is None:
            return []
        bits, depths = self.module.bits_stored, []
        is_stated = bits <= self.stated_bits  # by the header or codestream; otherwise only the used bits are known
        if is_stated and voi.bits > bits:
            depths.append(bits)
        is_narrow = not is_stated and voi.bits == self.stated_bits
        if is_misfit or is_narrow or self.histogram.highest().bit_length() < voi.bits - self.module.signed:
            counts = self.histogram.counts
            order = np.argsort(self.entries)
            order = order[counts[order] > 0]
            depth = find_depth(self.entries[order].astype(np.int64), counts[order])
            is_full = depth.is_full and depth.bits not in _UNUSUAL_DEPTHS
            is_shown_dark = is_misfit or is_full or voi.bits in _UNUSUAL_DEPTHS
            if depth.is_certain and (is_narrow or (depth.bits < voi.bits and is_shown_dark)):
                depths.append(depth.bits)
        return depths

    @staticmethod
    def _share(selected: npt.NDArray[np.bool_], counts: Counts) -> float:
        return int(counts[selected].sum()) / max(1, int(counts.sum()))


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


def _modality(dataset: Dataset, little_endian: bool, entries: Levels, caveats: list[Caveat]) -> _Mapped:
    """Apply Modality LUT or rescale (PS3.3 C.11.1)."""
    for item in elements.read_sequence_items(dataset, "ModalityLUTSequence"):
        lut = _read_lut(item, little_endian, signed=bool(entries.min() < 0))
        if lut is not None:
            return _Mapped(lut.output[np.clip(entries.astype(np.int64) - lut.first, 0, lut.output.size - 1)], 0.0)
    slope, intercept = elements.read_number(dataset, "RescaleSlope"), elements.read_number(dataset, "RescaleIntercept")
    slope = 1.0 if slope is None else slope
    with np.errstate(over="ignore"):
        mapped = entries * slope + (intercept or 0.0)
    largest = float(np.abs(mapped).max())
    if not np.isfinite(largest) or abs(slope) <= 4 * np.finfo(np.float64).eps * largest:
        caveats.append(Caveat.RESCALE_IGNORED)  # a slope of 0, or numbers that floating point cannot hold
        return _Mapped(entries)
    return _Mapped(mapped, slope)


def _voi(file: DicomFile, display: _Display, caveats: list[Caveat]) -> tuple[Levels, str]:
    """Apply the VOI LUT, else the window, else stretch (PS3.3 C.11.2).

    Several are alternatives of equal rank, of which viewers show the first; unusable ones are skipped.

    Returns:
        float64 [entries], in [0, 1], and why it cannot be meant; empty if it can.
    """
    module, mapped = display.module, display.mapped.values
    voi = _voi_lut(file.dataset, file.little_endian, mapped)
    if voi is None:
        voi = _window(file.dataset, display)
    if voi is not None:
        return display.fit(voi, caveats)
    if module.bits_stored <= _GREY_BITS and not module.signed and mapped[0] == 0 and mapped[1] == 1:
        levels = np.clip(mapped / ((1 << module.bits_stored) - 1), 0.0, 1.0)  # already grey levels
        nowhere = np.zeros(levels.size, np.bool_)
        return display.fit(_Voi(levels, nowhere, nowhere, f"The {module.bits_stored} bits of BitsStored"), caveats)
    caveats.append(Caveat.NO_WINDOW)
    return _stretch(mapped, display.histogram.counts), ""


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
        outside, margin = (index < 0) | (index >= lut.output.size), _FAR * lut.output.size
        far = (index < -margin) | (index >= lut.output.size + margin)
        stated = f"The {lut.output.size} entries of VOILUTSequence from {lut.first}"
        return _Voi(lut.output[np.clip(index, 0, lut.output.size - 1)] / top, outside, far, stated)
    return None


def _window(dataset: Dataset, display: _Display) -> _Voi | None:
    mapped = display.mapped.values
    centers, widths = elements.read_numbers(dataset, "WindowCenter"), elements.read_numbers(dataset, "WindowWidth")
    function = elements.read_code_string(dataset, "VOILUTFunction") or "LINEAR"
    for center, width in zip(centers, widths, strict=False):
        if center is None or width is None or width <= 0:
            continue
        stated = f"WindowCenter {center:g} and WindowWidth {width:g}"
        if function == "SIGMOID":
            grey = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (mapped - center) / width, -700.0, 700.0)))
            outside = (grey < 0.01) | (grey > 0.99)
            return _Voi(grey, outside, outside, stated)
        if function == "LINEAR_EXACT" or width <= 1:  # LINEAR has no meaning below 1 and divides by 0 at 1
            low, span = center - width / 2, width
        else:
            low, span = center - 0.5 - (width - 1) / 2, width - 1
        high = low + span
        grey = np.clip((mapped - low) / span, 0.0, 1.0)
        outside, margin = (mapped < low) | (mapped > high), _FAR * span
        far = (mapped < low - margin) | (mapped > high + margin)
        return _Voi(grey, outside, far, stated, display.full_range_bits(low, high))
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
