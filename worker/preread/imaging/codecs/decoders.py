"""Pixel data to stored values: one pinned decoder per transfer syntax, checked before it runs.

The decoders are called directly and not through pydicom's plugins, which try whatever is installed in turn; two of
them may differ by five grey levels. Each is named with its version in what it returns. All are permissive: numpy,
imagecodecs (BSD; libjpeg-turbo within), pylibjpeg-openjpeg and Pillow (OpenJPEG, BSD), pyjpegls (CharLS, BSD).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt
import openjpeg
import PIL
from PIL import Jpeg2KImagePlugin, features

from preread.core.errors import (
    BrokenHeader,
    DecodeFailed,
    NoPixels,
    TooManyPixels,
    TruncatedPixels,
    UnsupportedPixels,
    UnsupportedTransferSyntax,
)
from preread.core.types import Caveat
from preread.imaging import elements
from preread.imaging.codecs import jpeg, jpeg_2000
from preread.imaging.codecs.codestreams import Codestream, read_frame, read_rle
from preread.imaging.dicom_file import EXPLICIT_BIG, NATIVE, DicomFile

Stored = npt.NDArray[np.integer[Any]]

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSY = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_CLASSIC_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91))
JPEG_2000 = _CLASSIC_JPEG_2000 | frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
SUPPORTED = NATIVE | {RLE} | JPEG_LOSSY | JPEG_LOSSLESS | JPEG_LS | JPEG_2000
# These may hold either; the film's own (0028,2110) decides, and silence counts as lossy.
_PERHAPS_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (81, 91, 203))

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_TAIL_BYTES = 64 * 1024
_END_OF_CODESTREAM = b"\xff\xd9"


@dataclass(slots=True)
class Survived:
    """Failures of decoders in this process after which the image was decoded all the same, by another.

    A failed decoder may have left the memory in any state: who reads several images in one process looks here.
    """

    failures: int = 0


survived = Survived()


@dataclass(frozen=True, slots=True)
class PixelModule:
    """The Image Pixel Module (PS3.3 C.7.6.3) of a film, checked."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric_interpretation: str
    planar_configuration: int


@dataclass(frozen=True, slots=True)
class StoredValues:
    """Decoded pixel data: integers of 8 or 16 bits in the machine's byte order, [rows, columns] or [.., 3]."""

    values: Stored
    decoder: str
    caveats: tuple[Caveat, ...] = ()


def read_pixel_module(file: DicomFile, max_pixels: int) -> PixelModule:
    """Read and check what decoding relies on.

    Raises:
        TooManyPixels: rows x columns x samples exceed ``max_pixels``.
        BrokenHeader: a needed element is missing, broken or contradicts another.
        UnsupportedPixels: not 8 or 16 bits, not one or three integer samples, or an unknown colour space.
    """
    if file.pixels is not None and file.pixels.tag != 0x7FE00010:
        raise UnsupportedPixels("The pixels are floating-point numbers.")

    def need(keyword: str) -> int:
        found = elements.whole(file.dataset, keyword)
        if found is None or found < 0:
            raise BrokenHeader(f"{keyword} is missing or broken.")
        return found

    rows, columns, samples = need("Rows"), need("Columns"), need("SamplesPerPixel")
    if rows == 0 or columns == 0:
        raise BrokenHeader("The header claims no rows or no columns.")
    if rows * columns * max(samples, 1) > max_pixels:
        raise TooManyPixels(f"The header claims {rows} x {columns} pixels; the limit is {max_pixels}.")
    colours = elements.code_string(file.dataset, "PhotometricInterpretation")
    if colours is None:
        raise BrokenHeader("PhotometricInterpretation is missing or broken.")
    expected = 3 if colours in _COLOUR else 1
    if colours not in {*GREY, *_COLOUR, "PALETTE COLOR"}:
        raise UnsupportedPixels("The photometric interpretation is none of a radiograph.")
    if samples != expected:
        raise BrokenHeader(f"{samples} samples per pixel contradict the photometric interpretation.")
    allocated, stored = need("BitsAllocated"), need("BitsStored")
    if allocated not in {8, 16}:
        raise UnsupportedPixels(f"{allocated} bits are allocated per sample; only 8 and 16 are read.")
    high = elements.whole(file.dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not (0 < stored <= allocated and stored - 1 <= high < allocated):
        raise BrokenHeader("BitsStored and HighBit contradict BitsAllocated.")
    planar = elements.whole(file.dataset, "PlanarConfiguration") or 0
    representation = need("PixelRepresentation")
    if representation > 1 or (representation == 1 and expected == 3):
        raise BrokenHeader("PixelRepresentation is out of range.")
    return PixelModule(rows, columns, samples, allocated, stored, high, representation == 1, colours, planar)


def stored_values(file: DicomFile, module: PixelModule, halvings: int = 0) -> StoredValues:
    """Decode the pixel data with the one decoder that is pinned for its transfer syntax.

    Args:
        halvings: how often the film may be halved where the codec holds smaller copies (JPEG 2000); else, and where
            one could differ from the film by more than its fineness, it comes whole.

    Raises:
        UnsupportedTransferSyntax: none is.
        NoPixels, TruncatedPixels, DecodeFailed, BrokenHeader, UnsupportedPixels: as their names say.
    """
    syntax = file.transfer_syntax_uid
    if syntax not in SUPPORTED:
        raise UnsupportedTransferSyntax(f"No decoder for transfer syntax {syntax[:64]}.")
    if file.pixels is None or file.pixels.length == 0:
        raise NoPixels
    if syntax in NATIVE:
        return _native(file, module)
    if file.pixels.length is not None:
        raise BrokenHeader("The transfer syntax is a compressed one, but the pixel data is not encapsulated.")
    frame = read_frame(file.body, file.pixels.start)
    if syntax not in _CLASSIC_JPEG_2000 or "PixelPaddingValue" in file.dataset:
        halvings = 0  # a mean of padding and film is neither
    decoders: tuple[tuple[frozenset[str], Callable[[bytes, PixelModule], StoredValues]], ...] = (
        (frozenset({RLE}), _rle),
        (JPEG_LOSSY | JPEG_LOSSLESS, _jpeg),
        (JPEG_LS, _jpeg_ls),
        (JPEG_2000, partial(_jpeg_2000, halvings=halvings)),
    )
    decode = next(function for syntaxes, function in decoders if syntax in syntaxes)
    try:
        found = decode(frame, module)
    except elements.PARSE_ERRORS:
        raise DecodeFailed from None
    return StoredValues(found.values, found.decoder, _lossy(file))


def _lossy(file: DicomFile) -> tuple[Caveat, ...]:
    said = elements.code_string(file.dataset, "LossyImageCompression")
    syntax = file.transfer_syntax_uid
    lossy = said == "01" or syntax in JPEG_LOSSY or (syntax in _PERHAPS_LOSSY and said != "00")
    return (Caveat.LOSSY,) if lossy else ()


# Looked up once and for all: a confined process can open no file later.
_NAMED = {name: f"{name} {version(name)}" for name in ("numpy", "imagecodecs", "pyjpegls", "pylibjpeg-openjpeg")}


def _native(file: DicomFile, module: PixelModule) -> StoredValues:
    """Read uncompressed pixel data (PS3.5 8.2, A.1 to A.3, A.5); bytes behind the frame are ignored."""
    pixels = file.pixels
    assert pixels is not None
    count = module.rows * module.columns * module.samples_per_pixel
    halved = module.photometric_interpretation == "YBR_FULL_422"
    if halved:
        count = module.rows * module.columns * 2
    size = count * module.bits_allocated // 8
    there = len(file.body) - pixels.start
    if pixels.length is None:
        raise BrokenHeader("The transfer syntax is an uncompressed one, but the pixel data is encapsulated.")
    if min(there, pixels.length) < size:
        raise TruncatedPixels(f"{size} bytes of pixel data are needed; there are {min(there, pixels.length)}.")
    order = ">" if file.transfer_syntax_uid == EXPLICIT_BIG else "<"
    swapped = order == ">" and module.bits_allocated == 8 and pixels.vr == "OW"
    if swapped:  # 8-bit samples in 16-bit words: the bytes of each word change places (PS3.5 8.1.1)
        words = np.frombuffer(file.body, ">u2", min((size + 1) // 2, there // 2), pixels.start)
        flat: Stored = words.astype("<u2").view(np.uint8)[:size]
        if flat.size < size:
            raise TruncatedPixels
    else:
        flat = np.frombuffer(file.body, f"{order}u{module.bits_allocated // 8}", count, pixels.start)
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    tail = file.body[pixels.start + size - _TAIL_BYTES : pixels.start + size] if size > _TAIL_BYTES else b""
    caveats = (Caveat.TAIL_ZERO,) if tail and not any(tail) else ()
    if halved:  # Y1 Y2 Cb Cr: each colour serves two pixels (PS3.3 C.7.6.3.1.2)
        quads = flat.reshape(-1, 4)
        flat = np.empty((quads.shape[0], 2, 3), quads.dtype)
        flat[:, :, 0], flat[:, :, 1], flat[:, :, 2] = quads[:, :2], quads[:, 2:3], quads[:, 3:]
    values = _shaped(flat, module, 0 if halved else module.planar_configuration)
    return StoredValues(_kept_bits(values, module), _NAMED["numpy"], (*caveats, *_lossy(file)))


def _rle(frame: bytes, module: PixelModule) -> StoredValues:
    """Decode RLE Lossless (PS3.5 annex G): one PackBits segment per byte of each sample, high byte first."""
    width = module.bits_allocated // 8
    count = module.rows * module.columns
    # At most this much is written, whatever the segment says; a segment is padded to even length.
    planes = [
        np.frombuffer(imagecodecs.packbits_decode(segment, out=count + 2), np.uint8)
        for segment in read_rle(frame, module.samples_per_pixel * width)
    ]
    if any(plane.size < count for plane in planes):
        raise TruncatedPixels("The RLE frame holds fewer pixels than its header claims.")
    flat = np.zeros((module.samples_per_pixel, count), f"u{width}")
    for index, plane in enumerate(planes):
        sample, byte = divmod(index, width)
        flat[sample] |= plane[:count].astype(flat.dtype) << (8 * (width - 1 - byte))
    return StoredValues(_kept_bits(_shaped(flat, module, 1), module), _NAMED["imagecodecs"])


def _jpeg(frame: bytes, module: PixelModule) -> StoredValues:
    """Decode JPEG baseline, extended (8 and 12 bits) and lossless (ITU-T T.81).

    Colour is not converted: of a grey film the first channel is the picture, be the others equal (RGB) or mid-scale
    (YCbCr), and no header needs to be believed about which it is.
    """
    found = jpeg.read_size(frame)
    _agree(found, module)
    bare = jpeg.rebuild(frame)
    same = {1: "GRAYSCALE", 3: "YCBCR"}[module.samples_per_pixel]
    values = np.asarray(imagecodecs.jpeg8_decode(bare, colorspace=same, outcolorspace=same))
    name = f"{_NAMED['imagecodecs']} ({imagecodecs.jpeg8_version()})"
    if found.process == 0xC3 or module.signed:
        # Lossless words are the stored ones, bits above BitsStored included.
        widened = values.astype(f"u{module.bits_allocated // 8}", copy=False)
        return StoredValues(_kept_bits(_checked(widened, module), module), name)
    return StoredValues(_checked(values, module), name)


def _jpeg_ls(frame: bytes, module: PixelModule) -> StoredValues:
    """Decode JPEG-LS (ITU-T T.87), lossless and near-lossless."""
    found = jpeg.read_size(frame)
    _agree(found, module)
    buffer, info = jpeg_ls.decode_pixel_data(jpeg.rebuild(frame))
    flat: Stored = np.frombuffer(buffer, "<u1" if found.precision <= 8 else "<u2")
    values = _shaped(flat, module, 1 if info["interleave_mode"] == 0 else 0)
    return StoredValues(_signed(values, found, module), _NAMED["pyjpegls"])


def _jpeg_2000(frame: bytes, module: PixelModule, halvings: int) -> StoredValues:
    """Decode JPEG 2000 (ITU-T T.800) and HTJ2K (T.814)."""
    found = jpeg_2000.read_size(frame)
    _agree(found, module)
    bare = jpeg_2000.rebuild(frame)
    plain = module.photometric_interpretation in GREY and not (found.signed or module.signed)
    if halvings and plain and frame.rstrip(b"\0").endswith(_END_OF_CODESTREAM):
        smaller = _smaller(bare, found, module, halvings)
        if smaller is not None:
            return smaller
    buffer = openjpeg.decode_pixel_data(bare, version=2)
    flat: Stored = np.frombuffer(buffer, "<u1" if found.precision <= 8 else "<u2")
    return StoredValues(_signed(_shaped(flat, module, 0), found, module), _NAMED["pylibjpeg-openjpeg"])


def _smaller(bare: bytes, found: Codestream, module: PixelModule, halvings: int) -> StoredValues | None:
    """Decode a JPEG 2000 film without its finest resolutions (T.800 B.5), which are most of the work.

    Returns:
        ``None`` for what is to be decoded whole: a film that holds fewer resolutions, or at which this decoder fails.
    """
    if halvings > jpeg_2000.halvings_of(bare):
        return None
    halved = -(-module.rows >> halvings), -(-module.columns >> halvings)
    try:
        with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(bare)) as picture:
            picture.reduce = halvings  # an attribute here, see Pillow's docs
            values = np.asarray(picture)
    except elements.PARSE_ERRORS:
        survived.failures += 1
        return None
    depth = 8 * values.dtype.itemsize
    if values.shape != halved or values.dtype.kind != "u" or depth < found.precision:
        return None
    # Pillow moves the bits up to the top of their word
    values = np.right_shift(values, depth - found.precision)
    name = f"Pillow {PIL.__version__} (OpenJPEG {features.version('jpg_2000')}), halved {halvings} times"
    return StoredValues(values, name)


def _agree(found: Codestream, module: PixelModule) -> None:
    """Refuse a codestream whose size is not that of the header, before anything is allocated for it."""
    if (found.rows, found.columns, found.samples) != (module.rows, module.columns, module.samples_per_pixel):
        raise BrokenHeader(
            f"The codestream has {found.rows} x {found.columns} pixels of {found.samples} samples; the header claims "
            f"{module.rows} x {module.columns} of {module.samples_per_pixel}."
        )
    if not 1 < found.precision <= 16:
        raise UnsupportedPixels(f"The codestream has {found.precision} bits per sample.")


def _shaped(flat: Stored, module: PixelModule, planar: int) -> Stored:
    if flat.size != module.rows * module.columns * module.samples_per_pixel:
        raise TruncatedPixels("The decoder returned fewer pixels than the header claims.")
    if module.samples_per_pixel == 1:
        return flat.reshape(module.rows, module.columns)
    if planar == 1:
        return flat.reshape(module.samples_per_pixel, module.rows, module.columns).transpose(1, 2, 0)
    return flat.reshape(module.rows, module.columns, module.samples_per_pixel)


def _checked(values: Stored, module: PixelModule) -> Stored:
    shape = (module.rows, module.columns) + ((3,) if module.samples_per_pixel == 3 else ())
    if values.shape != shape:
        raise DecodeFailed("The decoder returned another size than the codestream claims.")
    return values


def _kept_bits(values: Stored, module: PixelModule) -> Stored:
    """Cut the stored bits out of the allocated ones and give them their sign (PS3.5 8.1.1).

    Bits outside may hold retired overlays. ``values`` are unsigned.
    """
    allocated, stored, high = module.bits_allocated, module.bits_stored, module.high_bit
    kind = np.dtype(f"{'i' if module.signed else 'u'}{values.dtype.itemsize}")
    if stored == allocated:
        return values.view(kind)
    left, right = allocated - 1 - high, allocated - stored
    shifted = np.left_shift(values, left) if left else values
    kept: Stored = np.right_shift(shifted.view(kind), right)
    return kept


def _signed(values: Stored, found: Codestream, module: PixelModule) -> Stored:
    """Give decoded samples the sign that the header means; the codestream often says another or cannot say."""
    container = 8 * values.dtype.itemsize
    kind = np.dtype(f"{'i' if module.signed else 'u'}{values.dtype.itemsize}")
    shift = container - found.precision
    if module.signed == found.signed or shift == 0:
        return values.view(kind)
    extended: Stored = np.right_shift(np.left_shift(values, shift).view(kind), shift)
    return extended
