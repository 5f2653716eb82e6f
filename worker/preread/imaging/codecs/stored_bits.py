"""Stored bits of a grey image by its header and its pixels.

The header states their position, number and sign (PS3.5 8.1.1), often other ones than the pixels use. Bits that
continue the stored bits change smoothly together with them from pixel to pixel; bits that hold something else (retired
overlays, noise) do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]
Counts = npt.NDArray[np.int64]

# Rows and columns that are compared, evenly distributed over the image.
_COMPARED_PX = (128, 512)
# Share of the pairs of neighbours whose difference is smaller if the other bits belong to the value. In 380 radiographs
# it was 0.28 or more with bits of the value, and 0.05 or less with noise or an overlay.
_CONTINUED_MIN = 0.2
_FOREIGN_MAX = 0.1
# Share of all pairs of neighbours below which a few outliers, such as a burned-in marker, may cause the difference.
_PAIRS_MIN = 0.001
_SIGN_PAIRS_MIN = 0.005
_SIGN_CONTINUED_MIN = 0.65
_SIGN_RANGE_MIN = 0.25

_GREY_BITS = 8
_COMMON_DEPTHS = frozenset({8, 10, 12, 14, 16})
# A marker: share of its pixels, bits by which it lies above the image, and share of the pixels of its smoothed edge.
_MARKER_SHARE_MAX = 0.02
_MARKER_GAP_BITS = 2
_MARKER_EDGE_MAX = 0.0005


@dataclass(frozen=True, slots=True)
class BitField:
    """Bits of an allocated word that hold the value.

    Attributes:
        low: least significant bit, from 0.
        bits: number of bits, at least 1.
        signed: the value is in two's complement.
    """

    low: int
    bits: int
    signed: bool

    @property
    def end(self) -> int:
        """Bit above the most significant one."""
        return self.low + self.bits


@dataclass(frozen=True, slots=True)
class FoundBits:
    """Result of the comparison of header and pixels.

    Attributes:
        field: bits that hold the value, as the pixels show them.
        contradiction: found range, as the end of a sentence, if neither the header nor another position explains the
            pixels; empty otherwise.
    """

    field: BitField
    contradiction: str = ""


def find_bits(words: Integers, declared: BitField, ignored: int = 0) -> FoundBits:
    """Find the bits that hold the value of a grey image.

    Args:
        words: unsigned integers of 8 or 16 bits [rows, columns], as allocated.
        declared: bits according to the header.
        ignored: mask of bits with another stated meaning, such as a retired overlay.

    Returns:
        ``declared`` itself unless the pixels contradict it.
    """
    width = 8 * words.dtype.itemsize
    steps = (max(1, side // compared) for side, compared in zip(words.shape, _COMPARED_PX, strict=True))
    sample = words[tuple(slice(None, None, step) for step in steps)]
    found = FoundBits(declared)
    if declared.bits < width:
        found = _find_position(words, sample, declared, ignored)
    return replace(found, field=_find_sign(sample, found.field))


def extract_bits(words: Integers, field: BitField) -> Integers:
    """Extract the value from allocated words (PS3.5 8.1.1).

    Args:
        words: unsigned integers of 8 or 16 bits, any shape.
        field: the bits.

    Returns:
        Integers of the same size and shape, signed if the field is.
    """
    width = 8 * words.dtype.itemsize
    kind = np.dtype(f"{'i' if field.signed else 'u'}{words.dtype.itemsize}")
    if field.bits == width:
        return words.view(kind)
    left = width - field.end
    shifted = np.left_shift(words, left) if left else words
    extracted: Integers = np.right_shift(shifted.view(kind), width - field.bits)
    return extracted


def _find_position(words: Integers, sample: Integers, declared: BitField, ignored: int) -> FoundBits:
    width = 8 * words.dtype.itemsize
    varying = int(np.bitwise_or.reduce(words, axis=None)) & ~int(np.bitwise_and.reduce(words, axis=None)) & ~ignored
    lowest, end = (varying & -varying).bit_length() - 1, varying.bit_length()
    if varying and end <= declared.bits and varying & ((1 << declared.low) - 1):
        return FoundBits(replace(declared, low=0))  # the bits of right-aligned values, of which some are cut off
    if end <= declared.end:
        return FoundBits(declared)
    kept = extract_bits(sample, declared).astype(np.int32)
    whole = sample & np.array((1 << width) - 1 & ~ignored, sample.dtype)
    if declared.signed:
        whole = whole.view(f"i{sample.dtype.itemsize}")
    extended = np.right_shift(whole, declared.low).astype(np.int32)
    share, continued = _compare(kept, extended, (extended - kept) >> declared.bits)
    if share < _PAIRS_MIN or continued <= _FOREIGN_MAX:
        return FoundBits(declared)
    if continued < _CONTINUED_MIN:
        return FoundBits(declared, f"bits up to {end - 1} are used, partly as a continuation of the value")
    if end - lowest <= declared.bits:
        return FoundBits(replace(declared, low=min(lowest, width - declared.bits)))
    if declared.signed:
        signed_words = np.right_shift(words.view(f"i{words.dtype.itemsize}"), declared.low)
        extremes = int(signed_words.max()), ~int(signed_words.min())
        bits = min(max(extremes).bit_length() + 1, end - declared.low)
        return FoundBits(BitField(declared.low, bits, signed=True))
    low = lowest if end == width else min(lowest, declared.low)
    return FoundBits(BitField(low, end - low, signed=False))


def _find_sign(sample: Integers, field: BitField) -> BitField:
    """Return the field with the sign that the pixels show.

    Values in two's complement that are read as unsigned, or the other way round, wrap where they cross zero or the
    middle of the range.
    """
    other = replace(field, signed=not field.signed)
    declared, turned = (extract_bits(sample, each).astype(np.int32) for each in (field, other))
    share, continued = _compare(declared, turned, (declared - turned) >> field.bits)
    if share < _SIGN_PAIRS_MIN or continued < _SIGN_CONTINUED_MIN:
        return field
    span = int(turned.max()) - int(turned.min())
    return other if span >= _SIGN_RANGE_MIN * (1 << field.bits) else field


def _compare(declared: Integers, other: Integers, excess: Integers) -> tuple[float, float]:
    """Compare two interpretations where neighbours in a row differ in the bits that only one of them reads.

    Args:
        declared: values as declared, signed [rows, columns].
        other: values with the other interpretation.
        excess: bits that ``declared`` does not read.

    Returns:
        Share of such pairs in all pairs, and share of these whose difference is smaller in ``other``; both in [0, 1].
    """
    pairs = excess[:, 1:] != excess[:, :-1]
    count = int(np.count_nonzero(pairs))
    if not count:
        return 0.0, 0.0
    smaller = np.abs(np.diff(other, axis=1)[pairs]) < np.abs(np.diff(declared, axis=1)[pairs])
    return count / pairs.size, int(np.count_nonzero(smaller)) / count


@dataclass(frozen=True, slots=True)
class Depth:
    """Number of bits that the values of an image need.

    Attributes:
        bits: 1 to 16.
        is_full: the values reach the top 256th of the range of these bits.
        is_certain: no other number is plausible: the range is full, or the number is a common one (8, 10, 12, 14 or
            16), so that the next would leave the image with a quarter of the grey levels.
    """

    bits: int
    is_full: bool
    is_certain: bool


def find_depth(values: Integers, counts: Counts) -> Depth:
    """Find the number of bits that the values of an image need.

    Burned-in markers do not count: a few pixels (2 %) that lie at least two bits above all others.

    Args:
        values: all values that occur, in ascending order.
        counts: number of pixels of each.
    """
    lowest, highest = int(values[0]), int(values[-1])
    if lowest < 0:
        bits = max(highest, ~lowest).bit_length() + 1
        reached = max(highest, ~lowest) + (1 << (bits - 1))
    else:
        highest = _without_marker(values, counts)
        bits, reached = max(highest.bit_length(), 1), highest
    is_full = bits >= _GREY_BITS and reached >= (1 << bits) - (1 << (bits - _GREY_BITS))
    return Depth(bits, is_full, is_full or bits in _COMMON_DEPTHS)


def _without_marker(values: Integers, counts: Counts) -> int:
    """Return the highest unsigned value that belongs to the image."""
    cumulated = np.cumsum(counts)
    total = int(cumulated[-1])
    bulk = int(values[int(np.searchsorted(cumulated, (1 - _MARKER_SHARE_MAX) * total))])
    for bits in range(max(bulk.bit_length(), _GREY_BITS), int(values[-1]).bit_length()):
        between = (values >= 1 << bits) & (values < 1 << (bits + _MARKER_GAP_BITS))
        if int(counts[between].sum()) <= _MARKER_EDGE_MAX * total:
            return int(values[values < 1 << bits][-1])
    return int(values[-1])
