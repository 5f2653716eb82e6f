"""Decoding of pixel data to stored values, by transfer syntax.

The decoders are called directly and not through pydicom's plugins, which try the installed decoders in turn; two of
them may differ by five grey levels. Results name the decoder and its version. All have permissive licences: numpy,
imagecodecs (BSD; libjpeg-turbo within), pylibjpeg-openjpeg and Pillow (OpenJPEG, BSD), pyjpegls (CharLS, BSD).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
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
from preread.imaging.codecs.codestreams import Codestream, cut_rle_segment, join_frame_fragments, split_rle_frame
from preread.imaging.codecs.stored_bits import BitField, FoundBits, extract_bits, find_bits
from preread.imaging.dicom_file import EXPLICIT_BIG, NATIVE, DicomFile

Stored = npt.NDArray[np.integer[Any]]

RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSY = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
JPEG_LOSSLESS = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
_CLASSIC_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91))
JPEG_2000 = _CLASSIC_JPEG_2000 | frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
SUPPORTED = NATIVE | {RLE} | JPEG_LOSSY | JPEG_LOSSLESS | JPEG_LS | JPEG_2000
# These may be either; (0028,2110) decides, and an image without it counts as lossy.
_PERHAPS_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (81, 91, 203))

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_KNOWN = GREY | _COLOUR | {"PALETTE COLOR"}
# Further terms of PS3.3 C.7.6.3.1.2; any other text may be a patient's and is not quoted.
_OTHER_TERMS = frozenset({"HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB"})
_TAIL_BYTES = 64 * 1024
_END_OF_CODESTREAM = b"\xff\xd9"


@dataclass(slots=True)
class DecoderFailures:
    """Count of decoder failures after which another decoder read the image.

    A failed decoder may have corrupted memory: a process that reads several images checks this count.

    Attributes:
        survived: since the process started.
    """

    survived: int = 0


decoder_failures = DecoderFailures()


@dataclass(frozen=True, slots=True)
class PixelModule:
    """Checked Image Pixel Module of a DICOM file (PS3.3 C.7.6.3).

    Attributes:
        rows: height in pixels, at least 1.
        columns: width in pixels, at least 1.
        samples_per_pixel: 1, or 3 for colour.
        bits_allocated: 8 or 16.
        bits_stored: 1 to ``bits_allocated``.
        high_bit: most significant stored bit.
        signed: samples are in two's complement.
        photometric_interpretation: (0028,0004), upper case.
        planar_configuration: 1 if the samples are stored by plane, else 0.
    """

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
    """Stored pixel values of a DICOM file after decoding.

    Attributes:
        values: integers of 8 or 16 bits in native byte order, [rows, columns], or [rows, columns, 3] for colour.
        decoder: name and version of the decoder.
        field: bits of the words that were found to hold the values.
        caveats: assumptions made while decoding.
        contradiction: sentence that names elements and found range if header and pixels contradict each other and
            neither can be right; empty otherwise.
        padding: value of pixels whose words are PixelPaddingValue and reach beyond the stored bits; ``None`` if there
            are none.
    """

    values: Stored
    decoder: str
    field: BitField
    caveats: tuple[Caveat, ...] = ()
    contradiction: str = ""
    padding: int | None = None


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Words as a decoder returned them.

    Attributes:
        words: integers of 8 or 16 bits [rows, columns], or [rows, columns, 3] for colour.
        decoder: name and version of the decoder.
        precision: bits per sample of the codestream; ``None`` if the words are those of the memory of the encoder.
        caveats: assumptions made while decoding.
    """

    words: Stored
    decoder: str
    precision: int | None = None
    caveats: tuple[Caveat, ...] = ()


def read_pixel_module(file: DicomFile, max_pixels: int) -> PixelModule:
    """Read and check the Image Pixel Module of a DICOM file.

    Args:
        file: the parsed DICOM file.
        max_pixels: limit on rows x columns x samples.

    Raises:
        TooManyPixels: rows x columns x samples exceed ``max_pixels``.
        BrokenHeader: a required element is missing, broken or contradicts another.
        UnsupportedPixels: not 8 or 16 bits, not one or three integer samples, or an unknown colour space.
    """
    if file.pixels is not None and file.pixels.tag != 0x7FE00010:
        raise UnsupportedPixels(
            "The pixels are floating-point numbers (Float Pixel Data); integers in PixelData are supported."
        )

    def need(keyword: str) -> int:
        value = elements.read_integer(file.dataset, keyword)
        if value is None or value < 0:
            raise BrokenHeader(f"The element {keyword} is missing or is no whole number of at least 0.")
        return value

    rows, columns, samples = need("Rows"), need("Columns"), need("SamplesPerPixel")
    if rows == 0 or columns == 0:
        raise BrokenHeader(f"The header states {rows} rows and {columns} columns; both must be at least 1.")
    if rows * columns * max(samples, 1) > max_pixels:
        raise TooManyPixels(
            f"The header states {rows} x {columns} pixels of {samples} samples; the limit is {max_pixels} samples."
        )
    colours = elements.read_code_string(file.dataset, "PhotometricInterpretation")
    if colours is None:
        raise BrokenHeader("The element PhotometricInterpretation is missing or empty.")
    expected = 3 if colours in _COLOUR else 1
    if colours not in _KNOWN:
        stated = colours if colours in _OTHER_TERMS else "not a term of DICOM"
        raise UnsupportedPixels(f"PhotometricInterpretation is {stated}; {', '.join(sorted(_KNOWN))} are supported.")
    if samples != expected:
        raise BrokenHeader(f"SamplesPerPixel is {samples}; PhotometricInterpretation {colours} requires {expected}.")
    allocated, stored = need("BitsAllocated"), need("BitsStored")
    if allocated not in {8, 16}:
        raise UnsupportedPixels(f"BitsAllocated is {allocated}; only 8 and 16 are supported.")
    high = elements.read_integer(file.dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not (0 < stored <= allocated and stored - 1 <= high < allocated):
        raise BrokenHeader(
            f"BitsStored {stored} and HighBit {high} contradict BitsAllocated {allocated}: the stored bits must lie "
            "within the allocated ones."
        )
    planar = elements.read_integer(file.dataset, "PlanarConfiguration") or 0
    representation = need("PixelRepresentation")
    if representation > 1 or (representation == 1 and expected == 3):
        raise BrokenHeader(
            f"PixelRepresentation is {representation} with PhotometricInterpretation {colours}; it must be 0, or 1 for "
            "signed values in grey."
        )
    return PixelModule(rows, columns, samples, allocated, stored, high, representation == 1, colours, planar)


def decode_stored_values(file: DicomFile, module: PixelModule, halvings: int = 0) -> StoredValues:
    """Decode DICOM pixel data with the decoder for its transfer syntax.

    Args:
        file: the parsed DICOM file.
        module: its checked Image Pixel Module.
        halvings: number of times the resolution may be halved if the codec stores lower resolutions (JPEG 2000 Part 1,
            without padding); otherwise the full resolution is decoded.

    Raises:
        UnsupportedTransferSyntax: there is no decoder for the transfer syntax.
        NoPixels: there is no pixel data.
        TruncatedPixels: the pixel data ends too early.
        DecodeFailed: the decoder fails.
        BrokenHeader, UnsupportedPixels: the pixel data contradicts the header, or is not that of a radiograph.
    """
    syntax = file.transfer_syntax_uid
    if syntax not in SUPPORTED:
        raise UnsupportedTransferSyntax(f"There is no decoder for the transfer syntax {syntax[:64]}.")
    if file.pixels is None or file.pixels.length == 0:
        raise NoPixels
    if syntax in NATIVE:
        return _extract_values(_native(file, module), module, file)
    if file.pixels.length is not None:
        raise BrokenHeader(
            f"The transfer syntax {syntax} is compressed and requires encapsulated pixel data; it is not encapsulated."
        )
    frame = join_frame_fragments(file.body, file.pixels.start)
    if syntax not in _CLASSIC_JPEG_2000 or "PixelPaddingValue" in file.dataset:
        halvings = 0  # a mean of padding and image values is neither
    decoders: tuple[tuple[frozenset[str], Callable[[bytes, PixelModule], _Decoded]], ...] = (
        (frozenset({RLE}), _rle),
        (JPEG_LOSSY | JPEG_LOSSLESS, _jpeg),
        (JPEG_LS, _jpeg_ls),
        (JPEG_2000, partial(_jpeg_2000, halvings=halvings)),
    )
    decode = next(function for syntaxes, function in decoders if syntax in syntaxes)
    try:
        decoded = decode(frame, module)
    except elements.PARSE_ERRORS:
        raise DecodeFailed(f"The decoder for the transfer syntax {syntax} failed on the pixel data.") from None
    return _extract_values(decoded, module, file)


def _extract_values(decoded: _Decoded, module: PixelModule, file: DicomFile) -> StoredValues:
    """Extract the stored values from decoded words.

    The precision of a codestream takes precedence over BitsStored (PS3.5 8.2.1), and so do the pixels of a grey image
    that clearly use other bits than the header states.
    """
    words = decoded.words.view(f"u{decoded.words.dtype.itemsize}")
    declared = BitField(module.high_bit + 1 - module.bits_stored, module.bits_stored, module.signed)
    if decoded.precision is not None and decoded.precision <= module.bits_stored:
        declared = BitField(0, decoded.precision, module.signed)
    elif words.dtype.itemsize < module.bits_allocated // 8:
        words = words.astype(f"u{module.bits_allocated // 8}")
    found = FoundBits(declared)
    if module.photometric_interpretation in GREY:
        found = find_bits(words, declared, _overlay_bits(file, module))
    is_corrected = found.field != declared or found.field.bits != module.bits_stored
    contradiction = ""
    if found.contradiction:
        contradiction = f"BitsStored is {module.bits_stored} and HighBit {module.high_bit}, but {found.contradiction}"
    caveats = (*decoded.caveats, *_lossy(file), *((Caveat.DEPTH_CORRECTED,) if is_corrected else ()))
    values, padding = extract_bits(words, found.field), _padding_beyond(words, found.field, file)
    return StoredValues(values, decoded.decoder, found.field, caveats, contradiction, padding)


def _padding_beyond(words: Stored, field: BitField, file: DicomFile) -> int | None:
    """Return the value of padding whose words reach beyond the stored bits.

    The stored bits alone do not tell such a pixel from one of the image (PS3.3 C.7.5.1.1.2).
    """
    stated = elements.read_integer(file.dataset, "PixelPaddingValue")
    width = 8 * words.dtype.itemsize
    if stated is None or words.ndim != 2 or field.bits == width:
        return None
    word = np.array([stated & ((1 << width) - 1)], words.dtype)
    value = int(extract_bits(word, field)[0])
    whole = int((word.view(f"i{words.dtype.itemsize}") if field.signed else word)[0]) >> field.low
    return value if value != whole and bool((words == word).any()) else None


def _overlay_bits(file: DicomFile, module: PixelModule) -> int:
    """Return a mask of the bits that hold retired overlays (PS3.3-2004 C.9.2)."""
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        try:
            allocated, bit = (int(file.dataset[group, element].value) for element in (0x0100, 0x0102))
        except elements.PARSE_ERRORS:
            continue
        if allocated == module.bits_allocated and 0 < bit < allocated and (group, 0x3000) not in file.dataset:
            mask |= 1 << bit
    return mask


def _lossy(file: DicomFile) -> tuple[Caveat, ...]:
    stated = elements.read_code_string(file.dataset, "LossyImageCompression")
    syntax = file.transfer_syntax_uid
    lossy = stated == "01" or syntax in JPEG_LOSSY or (syntax in _PERHAPS_LOSSY and stated != "00")
    return (Caveat.LOSSY,) if lossy else ()


# Read once at import: a confined process can open no file later.
_NAMED = {name: f"{name} {version(name)}" for name in ("numpy", "imagecodecs", "pyjpegls", "pylibjpeg-openjpeg")}


def _native(file: DicomFile, module: PixelModule) -> _Decoded:
    """Read uncompressed pixel data (PS3.5 8.2, A.1 to A.3, A.5).

    Bytes after the frame are ignored.
    """
    pixels = file.pixels
    assert pixels is not None
    count = module.rows * module.columns * module.samples_per_pixel
    length = pixels.length or 0
    # Some writers state YBR_FULL_422 for three full samples: more than subsampled, less than two subsampled frames
    is_full = 3 <= 8 * length // (module.rows * module.columns * module.bits_allocated) < 4
    halved = module.photometric_interpretation == "YBR_FULL_422" and not is_full
    if halved:
        count = module.rows * module.columns * 2
    size = count * module.bits_allocated // 8
    available = len(file.body) - pixels.start
    if pixels.length is None:
        raise BrokenHeader(
            f"The transfer syntax {file.transfer_syntax_uid} is uncompressed; the pixel data is encapsulated, which it "
            "does not allow."
        )
    if min(available, pixels.length) < size:
        raise TruncatedPixels(f"The pixel data has {min(available, pixels.length)} bytes; {size} are required.")
    order = ">" if file.transfer_syntax_uid == EXPLICIT_BIG else "<"
    swapped = order == ">" and module.bits_allocated == 8 and pixels.vr == "OW"
    if swapped:  # 8-bit samples in 16-bit words: the bytes of each word are swapped (PS3.5 8.1.1)
        words = np.frombuffer(file.body, ">u2", min((size + 1) // 2, available // 2), pixels.start)
        flat: Stored = words.astype("<u2").view(np.uint8)[:size]
        if flat.size < size:
            raise TruncatedPixels(f"The pixel data has {flat.size} bytes; {size} are required.")
    else:
        flat = np.frombuffer(file.body, f"{order}u{module.bits_allocated // 8}", count, pixels.start)
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    tail = file.body[pixels.start + size - _TAIL_BYTES : pixels.start + size] if size > _TAIL_BYTES else b""
    caveats = (Caveat.TAIL_ZERO,) if tail and not any(tail) else ()
    if halved:  # Y1 Y2 Cb Cr: two pixels share a colour (PS3.3 C.7.6.3.1.2)
        quads = flat.reshape(-1, 4)
        flat = np.empty((quads.shape[0], 2, 3), quads.dtype)
        flat[:, :, 0], flat[:, :, 1], flat[:, :, 2] = quads[:, :2], quads[:, 2:3], quads[:, 3:]
    values = _reshape(flat, module, 0 if halved else module.planar_configuration)
    return _Decoded(values, _NAMED["numpy"], caveats=caveats)


def _rle(frame: bytes, module: PixelModule) -> _Decoded:
    """Decode RLE Lossless (PS3.5 annex G).

    Each byte of each sample has a PackBits segment, high byte first.
    """
    width = module.bits_allocated // 8
    count = module.rows * module.columns
    planes = [
        np.frombuffer(imagecodecs.packbits_decode(cut_rle_segment(segment, count), out=count), np.uint8)
        for segment in split_rle_frame(frame, module.samples_per_pixel * width)
    ]
    if any(plane.size < count for plane in planes):
        shortest = min(plane.size for plane in planes)
        raise TruncatedPixels(f"A segment of the RLE frame has {shortest} pixels; the header requires {count}.")
    flat = np.zeros((module.samples_per_pixel, count), f"u{width}")
    for index, plane in enumerate(planes):
        sample, byte = divmod(index, width)
        flat[sample] |= plane[:count].astype(flat.dtype) << (8 * (width - 1 - byte))
    return _Decoded(_reshape(flat, module, 1), _NAMED["imagecodecs"])


def _jpeg(frame: bytes, module: PixelModule) -> _Decoded:
    """Decode JPEG baseline, extended (8 and 12 bits) and lossless (T.81).

    Colour is not converted: of a grey image the first channel is the image, whether the others are equal (RGB) or
    mid-scale (YCbCr), so that it need not be known which it is.
    """
    codestream = jpeg.read_jpeg_size(frame)
    _require_size(codestream, module)
    bare = jpeg.rebuild_jpeg_frame(frame)
    same = {1: "GRAYSCALE", 3: "YCBCR"}[module.samples_per_pixel]
    values = np.asarray(imagecodecs.jpeg8_decode(bare, colorspace=same, outcolorspace=same))
    name = f"{_NAMED['imagecodecs']} ({imagecodecs.jpeg8_version()})"
    return _Decoded(_require_shape(values, module), name, codestream.precision)


def _jpeg_ls(frame: bytes, module: PixelModule) -> _Decoded:
    """Decode JPEG-LS (ITU-T T.87), lossless and near-lossless."""
    codestream = jpeg.read_jpeg_size(frame)
    _require_size(codestream, module)
    buffer, info = _charls(jpeg.rebuild_jpeg_ls_variants(frame))
    flat: Stored = np.frombuffer(buffer, "<u1" if codestream.precision <= 8 else "<u2")
    values = _reshape(flat, module, 1 if info["interleave_mode"] == 0 else 0)
    return _Decoded(values, _NAMED["pyjpegls"], codestream.precision)


def _charls(variants: Iterable[bytes]) -> tuple[bytearray, dict[str, int]]:
    """Decode the first of several forms of a codestream that CharLS accepts.

    Raises:
        DecodeFailed: it accepts none.
    """
    failures = 0
    for bare in variants:
        try:
            decoded: tuple[bytearray, dict[str, int]] = jpeg_ls.decode_pixel_data(bare)
        except elements.PARSE_ERRORS as error:
            failures, last = failures + 1, error
        else:
            decoder_failures.survived += failures
            return decoded
    raise DecodeFailed from last


def _jpeg_2000(frame: bytes, module: PixelModule, halvings: int) -> _Decoded:
    """Decode JPEG 2000 (ITU-T T.800) and HTJ2K (T.814)."""
    codestream = jpeg_2000.read_jpeg_2000_size(frame)
    _require_size(codestream, module)
    bare = jpeg_2000.rebuild_jpeg_2000_frame(frame)
    plain = module.photometric_interpretation in GREY and not (codestream.signed or module.signed)
    if halvings and plain and frame.rstrip(b"\0").endswith(_END_OF_CODESTREAM):
        reduced = _reduced(bare, codestream, module, halvings)
        if reduced is not None:
            return reduced
    buffer = openjpeg.decode_pixel_data(bare, version=2)
    flat: Stored = np.frombuffer(buffer, "<u1" if codestream.precision <= 8 else "<u2")
    return _Decoded(_reshape(flat, module, 0), _NAMED["pylibjpeg-openjpeg"], codestream.precision)


def _reduced(bare: bytes, codestream: Codestream, module: PixelModule, halvings: int) -> _Decoded | None:
    """Decode a JPEG 2000 image without its highest resolutions (T.800 B.5).

    Returns:
        ``None`` if the full resolution must be decoded: the image has fewer resolutions, or this decoder fails.
    """
    if halvings > jpeg_2000.count_decomposition_levels(bare):
        return None
    halved = -(-module.rows >> halvings), -(-module.columns >> halvings)
    try:
        with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(bare)) as image:
            image.reduce = halvings  # sets the resolution, see Pillow's documentation
            values = np.asarray(image)
    except elements.PARSE_ERRORS:
        decoder_failures.survived += 1
        return None
    depth = 8 * values.dtype.itemsize
    if values.shape != halved or values.dtype.kind != "u" or depth < codestream.precision:
        return None
    # Pillow shifts the samples to the most significant bits
    values = np.right_shift(values, depth - codestream.precision)
    name = f"Pillow {PIL.__version__} (OpenJPEG {features.version('jpg_2000')}), halved {halvings} times"
    return _Decoded(values, name, codestream.precision)


def _require_size(codestream: Codestream, module: PixelModule) -> None:
    """Raise an error if the codestream's size is not that of the header."""
    if (codestream.rows, codestream.columns, codestream.samples) != (
        module.rows,
        module.columns,
        module.samples_per_pixel,
    ):
        raise BrokenHeader(
            f"The codestream has {codestream.rows} x {codestream.columns} pixels of {codestream.samples} samples; the "
            f"header states {module.rows} x {module.columns} of {module.samples_per_pixel}."
        )
    if not 1 < codestream.precision <= 16:
        raise UnsupportedPixels(f"The codestream has {codestream.precision} bits per sample; 2 to 16 are supported.")


def _reshape(flat: Stored, module: PixelModule, planar: int) -> Stored:
    required = module.rows * module.columns * module.samples_per_pixel
    if flat.size != required:
        raise TruncatedPixels(f"The decoder returned {flat.size} samples; the header requires {required}.")
    if module.samples_per_pixel == 1:
        return flat.reshape(module.rows, module.columns)
    if planar == 1:
        return flat.reshape(module.samples_per_pixel, module.rows, module.columns).transpose(1, 2, 0)
    return flat.reshape(module.rows, module.columns, module.samples_per_pixel)


def _require_shape(values: Stored, module: PixelModule) -> Stored:
    shape = (module.rows, module.columns) + ((3,) if module.samples_per_pixel == 3 else ())
    if values.shape != shape:
        raise DecodeFailed(f"The decoder returned an image of {values.shape} samples; the header requires {shape}.")
    return values
