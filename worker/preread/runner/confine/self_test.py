"""Self-test of an inference process: imports, one image of each codec.

It can open no file later, so that a module that is not imported by then is one that no image gets to use; and a call
that a decoder needs and the confinement refuses must show here and not at a patient's image.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import struct
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

import numpy as np

from preread.core.errors import PrereadError
from preread.runner.confine.confinement import Unconfined

if TYPE_CHECKING:
    from preread.model.classifier import Classifier

_SIDE_PX = 32
# What is imported only once an image calls for it: of Pillow for EXIF, palettes and JPEG with several pictures.
_LATE = (
    "PIL.ExifTags",
    "PIL.ImageMode",
    "PIL.ImagePalette",
    "PIL.Jpeg2KImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.MpoImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
    "preread.model.assess",
    "preread.model.intended_use",
    "preread.imaging.identity",
    "preread.imaging.preview_png",
    "preread.imaging.radiograph",
)
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_EIGHT_BITS = frozenset({"1.2.840.10008.1.2.4.50"})


def import_image_modules() -> None:
    """Import all that an image may need."""
    for name in _LATE:
        importlib.import_module(name)
    from pydicom.charset import python_encoding

    for encoding in {*python_encoding.values(), "ascii", "latin-1", "utf-8", "utf-16", "idna"}:
        codecs.lookup(encoding)


def block_imports() -> None:
    """Let each later import fail at once, with the module's name."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not PathFinder]


def make_test_images() -> dict[str, bytes]:
    """Return a synthetic image for each codec, as the bytes of a file."""
    import jpeg_ls
    from imagecodecs import jpeg8_encode, packbits_encode
    from openjpeg.utils import encode_array
    from PIL import Image

    rows, columns = np.indices((_SIDE_PX, _SIDE_PX))
    deep = ((rows * columns) % 4096).astype(np.uint16)
    flat = (deep >> 4).astype(np.uint8)
    planes = [packbits_encode(plane.astype(np.uint8).tobytes()) for plane in (deep >> 8, deep & 255)]
    found = {
        "uncompressed": _dicom(_EXPLICIT_LITTLE, deep.tobytes()),
        "RLE": _dicom("1.2.840.10008.1.2.5", _rle_frame(planes)),
        "JPEG": _dicom("1.2.840.10008.1.2.4.50", jpeg8_encode(flat)),
        "JPEG lossless": _dicom("1.2.840.10008.1.2.4.70", jpeg8_encode(deep, lossless=True, bitspersample=16)),
        "JPEG-LS": _dicom("1.2.840.10008.1.2.4.80", jpeg_ls.encode_array(deep)),
        "JPEG 2000": _dicom("1.2.840.10008.1.2.4.90", encode_array(deep, bits_stored=12)),
    }
    for kind in ("JPEG", "PNG"):
        stream = io.BytesIO()
        Image.fromarray(flat).save(stream, kind)
        found[f"{kind} file"] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, "PNG")  # 12 bits in 16: percentiles import more of numpy
    found["deep PNG file"] = stream.getvalue()
    return found


def run_self_test(images: Mapping[str, bytes], classifier: Classifier | None) -> None:
    """Decode images, draw their previews and run the network, if any.

    Args:
        images: content by name, of ``make_test_images``.
        classifier: ``None`` for a process without a network.

    Raises:
        Unconfined: names what does not work.
    """
    from preread.imaging.preview_png import encode_preview
    from preread.imaging.radiograph import decode_radiograph, read_image_header

    os.environ["OPJ_NUM_THREADS"] = "2"  # so that a decoder starts a thread
    for what, data in images.items():
        try:
            pixels = decode_radiograph(read_image_header(data)).pixels
        except (PrereadError, OSError, ImportError) as error:
            raise Unconfined(f"an image of our own ({what}) cannot be decoded here: {type(error).__name__}") from error
        if pixels.shape != (_SIDE_PX, _SIDE_PX) or int(np.ptp(pixels)) == 0:
            raise Unconfined(f"an image of our own ({what}) is decoded to another one")
        encode_preview(pixels)
    if classifier is None:
        return
    spec = classifier.bundle.manifest.preprocessing
    logit = classifier.classify(np.zeros((1, spec.rows, spec.columns, 1), np.float32)).logit
    if not np.isfinite(logit).all():
        raise Unconfined("the network answers with no number here")


def _dicom(syntax: str, pixels: bytes | bytearray) -> bytes:
    """Return a DICOM file (PS3.10) with what decoding needs and nothing else."""
    bits = (8, 8, 7) if syntax in _EIGHT_BITS else (16, 12, 11)
    meta = _element(0x0002, 0x0010, b"UI", _even(syntax.encode(), b"\0"))
    words = ((0x0002, 1), (0x0010, _SIDE_PX), (0x0011, _SIDE_PX), *zip((0x0100, 0x0101, 0x0102), bits, strict=True))
    elements = [_element(0x0028, number, b"US", struct.pack("<H", value)) for number, value in (*words, (0x0103, 0))]
    elements.insert(1, _element(0x0028, 0x0004, b"CS", b"MONOCHROME2 "))
    if syntax == _EXPLICIT_LITTLE:
        last = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels
    else:
        frame = _even(pixels, b"\0")
        items = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame)) + frame
        last = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + items
        last += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return bytes(128) + b"DICM" + meta + b"".join(elements) + last


def _element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def _even(value: bytes | bytearray, padding: bytes) -> bytes:
    return bytes(value) + padding[: len(value) % 2]


def _rle_frame(segments: list[bytes | bytearray]) -> bytes:
    """Return an RLE Lossless frame (PS3.5 G.5)."""
    padded = [_even(segment, b"\0") for segment in segments]
    offsets = [64 + sum(map(len, padded[:index])) for index in range(len(padded))]
    return struct.pack("<16I", len(padded), *offsets, *[0] * (15 - len(offsets))) + b"".join(padded)
