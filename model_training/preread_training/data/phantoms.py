"""Phantoms: synthetic chest images, in each encoding that a file may have.

They show that a file is read, never that a result is right: no patient stands behind them, and their names say so.
Drawn and encoded with the runtime dependencies alone. A phantom rendered by ``preread.imaging.radiograph`` gives back
the drawing within one grey level whatever the encoding (lossy ones: a few), on which the tests rely.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import jpeg_ls
import numpy as np
import numpy.typing as npt
from openjpeg.utils import encode_array
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from preread.core.types import PixelArray

Integers = npt.NDArray[np.integer[Any]]

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

# Every transfer syntax that the worker reads, by a short name.
TRANSFER_SYNTAXES = {
    "implicit": IMPLICIT_LITTLE,
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big-endian": EXPLICIT_BIG,
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-baseline": "1.2.840.10008.1.2.4.50",
    "jpeg-extended": "1.2.840.10008.1.2.4.51",
    "jpeg-lossless": "1.2.840.10008.1.2.4.57",
    "jpeg-lossless-sv1": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls-near": "1.2.840.10008.1.2.4.81",
    "jpeg-2000-lossless": "1.2.840.10008.1.2.4.90",
    "jpeg-2000": "1.2.840.10008.1.2.4.91",
    "htj2k-lossless": "1.2.840.10008.1.2.4.201",
    "htj2k-lossless-rpcl": "1.2.840.10008.1.2.4.202",
    "htj2k": "1.2.840.10008.1.2.4.203",
}
LOSSY = frozenset({"jpeg-baseline", "jpeg-extended", "jpeg-ls-near", "jpeg-2000", "htj2k"})
NATIVE = frozenset({"implicit", "explicit", "deflated", "big-endian"})


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoding of a synthetic image as DICOM.

    Attributes:
        syntax: a name from ``TRANSFER_SYNTAXES``.
        photometric_interpretation: MONOCHROME1 or MONOCHROME2.
        bits: BitsStored, 8 to 16; JPEG baseline takes 8, extended 8 to 12.
        signed: PixelRepresentation 1.
        voi: ``window``, ``exact`` (LINEAR_EXACT), ``lut`` or ``none``.
        slope: RescaleSlope; 1 with intercept 0 writes no rescale at all.
        intercept: RescaleIntercept.
        preamble: ``False`` writes the bare Data Set, as some archives do (implicit or explicit syntax only).
    """

    syntax: str = "explicit"
    photometric_interpretation: str = "MONOCHROME2"
    bits: int = 12
    signed: bool = False
    voi: str = "window"
    slope: float = 1.0
    intercept: float = 0.0
    preamble: bool = True


def draw_chest(seed: int, *, rows: int = 512, columns: int = 512) -> PixelArray:
    """Draw a synthetic chest image.

    Args:
        seed: of the anatomy and the noise.
        rows: of the image.
        columns: of the image.

    Returns:
        uint8 [rows, columns], 0 = black. At least half a percent of the pixels are black and half a percent white, so
        that a stretch between these percentiles leaves the image as it is. The word PHANTOM stands in it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x, y = x / columns, y / rows

    def ellipse(cx: float, cy: float, rx: float, ry: float, soft: float = 0.08) -> npt.NDArray[np.float32]:
        distance = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
        inside: npt.NDArray[np.float32] = np.clip((1 + soft - distance) / (2 * soft), 0, 1)
        return inside

    shift, width, opacity = rng.uniform(-0.02, 0.02), rng.uniform(0.92, 1.05), rng.uniform(0.0, 0.35)
    grey = 150 * ellipse(0.5, 0.62, 0.46 * width, 0.62) + 40 * ellipse(0.5, 0.1, 0.13, 0.2)
    for side in (-1.0, 1.0):
        lung = ellipse(0.5 + shift + side * 0.2 * width, 0.5, 0.15 * width, 0.31)
        grey -= 105 * lung
        for rib in np.linspace(0.25, 0.75, 7) + rng.uniform(-0.01, 0.01):
            arc = np.abs(y - rib - 0.45 * ((x - 0.5 - side * 0.2) ** 2)) < 0.011
            grey += 16 * lung * arc
        if side > 0:
            patch = ellipse(0.5 + 0.2 * width, rng.uniform(0.5, 0.68), rng.uniform(0.04, 0.09), 0.1, 0.6)
            grey += 140 * opacity * lung * patch
        collar = np.abs(y - 0.2 - side * 0.12 * (0.5 - x)) < 0.012
        grey += 22 * collar * ellipse(0.5 + side * 0.17, 0.2, 0.15, 0.08)
    grey += 70 * ellipse(0.47 + shift, 0.6, 0.12, 0.17, 0.3) + 45 * ellipse(0.5 + shift, 0.5, 0.035, 0.5)
    grey += rng.normal(0, 3.0, grey.shape) * (grey > 1)
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    _mark(image, rows, columns)
    return np.array(image)


def _mark(image: Image.Image, rows: int, columns: int) -> None:
    """Draw a white plate with the word PHANTOM into the corner."""
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, columns, max(2, rows // 50)), fill=0)
    left, top, right, bottom = columns * 0.03, rows * 0.035, columns * 0.30, rows * 0.085
    pen.rectangle((left, top, right, bottom), fill=255)
    pen.text(
        ((left + right) / 2, (top + bottom) / 2), "PHANTOM", fill=0, anchor="mm", font=ImageFont.load_default(rows / 26)
    )


def make_identity_elements(seed: int) -> dict[str, object]:
    """Return Data Elements of an invented child of three, by keyword."""
    root = f"2.25.{0x5052455245414400000000 + seed}"
    return {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": f"{root}.3",
        "StudyInstanceUID": f"{root}.1",
        "SeriesInstanceUID": f"{root}.2",
        "PatientName": f"Phantom^Drawn {seed}",
        "PatientID": f"PHANTOM-{seed:04d}",
        "PatientBirthDate": "20210110",
        "PatientAge": "003Y",
        "PatientSex": "O",
        "StudyDate": "20240315",
        "StudyTime": "101500",
        "AcquisitionDate": "20240315",
        "AcquisitionTime": f"1016{seed % 60:02d}",
        "AccessionNumber": f"PH{seed:05d}",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "AP",
        "StudyDescription": "Phantom chest, drawn",
        "SeriesDescription": "Chest AP",
        "Manufacturer": "Preread phantoms",
        "InstitutionName": "Nowhere",
        "ImageComments": "A drawing; no patient",
    }


def to_dicom(pixels: PixelArray, encoding: Encoding = Encoding(), seed: int = 0, **elements: object) -> bytes:
    """Encode grey levels as a DICOM file that displays as these levels.

    Args:
        pixels: uint8 [rows, columns], 0 = black.
        encoding: transfer syntax, bits and transforms of the values.
        seed: of the identity, see ``make_identity_elements``.
        elements: Data Elements by keyword, in place of the usual ones; ``None`` leaves one out.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: a VOI LUT of this encoding would have more entries than DICOM allows.
    """
    dataset = Dataset()
    for keyword, value in {**make_identity_elements(seed), **elements}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    stored = _stored(pixels, encoding)
    allocated = 8 * stored.dtype.itemsize
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = encoding.photometric_interpretation
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, encoding.bits, encoding.bits - 1
    dataset.PixelRepresentation = int(encoding.signed)
    if (encoding.slope, encoding.intercept) != (1.0, 0.0):
        dataset.RescaleSlope, dataset.RescaleIntercept = encoding.slope, encoding.intercept
        dataset.RescaleType = "US"
    _set_voi(dataset, encoding)
    syntax = UID(TRANSFER_SYNTAXES[encoding.syntax])
    if encoding.syntax in LOSSY:
        dataset.LossyImageCompression = "01"
    if encoding.syntax in NATIVE:
        byte_order: Literal["<", ">"] = ">" if encoding.syntax == "big-endian" else "<"
        native = stored.astype(stored.dtype.newbyteorder(byte_order)).tobytes()
        dataset.PixelData = native + b"\0" * (len(native) % 2)
    else:
        dataset.PixelData = encapsulate([compress_frame(stored, encoding)])
    # Each word of OW is swapped in big endian, which 8-bit samples must not be.
    dataset["PixelData"].VR = "OW" if allocated == 16 and encoding.syntax in NATIVE else "OB"
    return _written(dataset, syntax, preamble=encoding.preamble)


def _written(dataset: Dataset, syntax: UID, *, preamble: bool) -> bytes:
    stream = io.BytesIO()
    implicit, little = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    if not preamble:
        dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        return stream.getvalue()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _low(encoding: Encoding) -> int:
    return -(1 << (encoding.bits - 1)) if encoding.signed else 0


def _stored(pixels: PixelArray, encoding: Encoding) -> Integers:
    """Spread 0 to 255 over the range of the stored bits.

    MONOCHROME1 and a falling rescale each invert it.
    """
    levels = pixels.astype(np.float64) / 255
    if (encoding.photometric_interpretation == "MONOCHROME1") != (encoding.slope < 0):
        levels = 1 - levels
    values = np.floor(levels * ((1 << encoding.bits) - 1) + 0.5) + _low(encoding)
    return values.astype(f"{'i' if encoding.signed else 'u'}{1 if encoding.bits <= 8 else 2}")


def _set_voi(dataset: Dataset, encoding: Encoding) -> None:
    ends = [(_low(encoding) + end) * encoding.slope + encoding.intercept for end in (0, (1 << encoding.bits) - 1)]
    low, high = min(ends), max(ends)
    if encoding.voi == "window":
        dataset.WindowCenter, dataset.WindowWidth = _ds((low + high + 1) / 2), _ds(high - low + 1)
    elif encoding.voi == "exact":
        dataset.WindowCenter, dataset.WindowWidth = _ds((low + high) / 2), _ds(high - low)
        dataset.VOILUTFunction = "LINEAR_EXACT"
    elif encoding.voi == "lut":
        entries = round(high - low) + 1
        if entries > 0x10000 or low < -0x8000:
            raise ValueError(f"a VOI LUT would have {entries} entries, but may have 65536: choose a smaller slope")
        item = Dataset()
        item.LUTDescriptor = [entries & 0xFFFF, round(low) & 0xFFFF, 16]
        item["LUTDescriptor"].VR = "US"
        table = np.floor(np.arange(entries) * (65535 / (entries - 1)) + 0.5).astype(np.uint16)
        item.LUTData = table.astype(">u2" if encoding.syntax == "big-endian" else "<u2").tobytes()
        item["LUTData"].VR = "OW"
        dataset.VOILUTSequence = [item]


def _ds(value: float) -> str:
    return f"{value:.10g}"


def compress_frame(stored: Integers, encoding: Encoding) -> bytes:
    """Compress stored values as one frame of a transfer syntax.

    Args:
        stored: integers [rows, columns].
        encoding: its name and bits.

    Raises:
        ValueError: the transfer syntax is not compressed.
    """
    bits, name = encoding.bits, encoding.syntax
    # JPEG and JPEG-LS have no sign: they carry the stored bits.
    unsigned = stored.view(f"u{stored.dtype.itemsize}") & np.array((1 << bits) - 1, f"u{stored.dtype.itemsize}")
    if name == "rle":
        return _rle(stored)
    if name == "jpeg-baseline":
        return bytes(imagecodecs.jpeg8_encode(unsigned, level=100))
    if name == "jpeg-extended":
        wide = unsigned.astype(np.uint16) if bits > 8 else unsigned
        return bytes(imagecodecs.jpeg8_encode(wide, level=100, bitspersample=12 if bits > 8 else 8))
    if name.startswith("jpeg-lossless"):
        predictor = 1 if name.endswith("sv1") else 6
        return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits))
    if name.startswith("jpeg-ls"):
        error = 0 if name == "jpeg-ls" else max(1, (1 << bits) >> 9)
        return bytes(jpeg_ls.encode_array(unsigned, lossy_error=error))
    if name.startswith("jpeg-2000"):
        ratios = None if name == "jpeg-2000-lossless" else [4]
        options = {"bits_stored": bits, "photometric_interpretation": 2, "compression_ratios": ratios}
        return bytes(encode_array(stored, use_mct=False, **options))
    if name.startswith("htj2k"):
        lossless = name != "htj2k"
        return bytes(imagecodecs.htj2k_encode(stored, level=None if lossless else 0.0001, reversible=lossless))
    raise ValueError(f"there is no encoder for the transfer syntax {name!r}: choose one of TRANSFER_SYNTAXES")


def _rle(stored: Integers) -> bytes:
    """Encode RLE Lossless (PS3.5 annex G).

    One PackBits segment for each byte, the high one first, row by row.
    """
    width = stored.dtype.itemsize
    planes = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder(">"))).view(np.uint8)
    segments = []
    for byte in range(width):
        plane = np.ascontiguousarray(planes.reshape(*stored.shape, width)[:, :, byte])
        segment = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane)
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = list(itertools.accumulate((len(s) for s in segments[:-1]), initial=64))
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + width] = width, offsets
    return header.tobytes() + b"".join(segments)


def to_jpeg(pixels: PixelArray, quality: int = 90) -> bytes:
    """Encode grey levels as a plain JPEG without metadata.

    Args:
        pixels: uint8 [rows, columns].
        quality: 1 to 100.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def to_png(pixels: PixelArray, bits: int = 8) -> bytes:
    """Encode grey levels as a plain PNG.

    Args:
        pixels: uint8 [rows, columns].
        bits: 8 or 16 a pixel.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels if bits == 8 else pixels.astype(np.uint16) * 257).save(stream, "PNG")
    return stream.getvalue()


def list_encodings() -> Iterator[tuple[str, Encoding]]:
    """Yield a name and an encoding for each transfer syntax.

    Their other properties alternate.
    """
    plain = itertools.cycle(
        (
            Encoding(bits=12),
            Encoding(photometric_interpretation="MONOCHROME1", bits=10, voi="lut"),
            Encoding(bits=16, signed=True, slope=2.0, intercept=-100.0),
            Encoding(photometric_interpretation="MONOCHROME1", bits=15, voi="exact"),
            Encoding(bits=12, voi="none"),
        )
    )
    for name in TRANSFER_SYNTAXES:
        encoding = replace(next(plain), syntax=name)
        if name == "jpeg-baseline":
            encoding = replace(encoding, bits=8, signed=False)
        elif name in LOSSY:
            encoding = replace(encoding, bits=min(encoding.bits, 12), signed=False)
        yield name, encoding


_DEMO_DRAWING = 20  # its probability lies far from the ends of the band, so that no encoding moves it over one


def make_demo_files(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the demo's synthetic files.

    One drawing in each transfer syntax, without preamble, as JPEG and as PNG.

    The drawing is the same in all of them, so that results differ by the encoding alone. The DICOM phantoms are
    children of three, frontal; a bundle refuses two more (an adult, a lateral).

    Args:
        seed: of the drawing and the identities.
    """
    drawing = draw_chest(seed + _DEMO_DRAWING)
    for number, (name, encoding) in enumerate(list_encodings(), start=seed):
        yield f"phantom-{name}.dcm", to_dicom(drawing, encoding, number)
    last = seed + len(TRANSFER_SYNTAXES)
    yield "phantom-no-preamble", to_dicom(drawing, Encoding("implicit", preamble=False), last)
    yield (
        "phantom-adult.dcm",
        to_dicom(drawing, Encoding(), last + 1, PatientAge="041Y", PatientBirthDate="19830101"),
    )
    yield (
        "phantom-lateral.dcm",
        to_dicom(drawing, Encoding(), last + 2, ViewPosition="LL", SeriesDescription="Chest lateral"),
    )
    yield "phantom.jpg", to_jpeg(drawing)
    yield "phantom-16-bit.png", to_png(drawing, bits=16)


def write_examples(folder: Path, seed: int = 0) -> list[Path]:
    """Write the demo's synthetic files into a folder and return their paths.

    Args:
        folder: must exist.
        seed: see ``make_demo_files``.
    """
    written = []
    for name, data in make_demo_files(seed):
        path = folder / name
        path.write_bytes(data)
        written.append(path)
    return written
