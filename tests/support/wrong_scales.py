"""Images whose header and pixels are on different scales, for tests and ``tests.bench.scales``."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from preread.core.types import PixelArray
from preread_training.data import phantoms

Words = npt.NDArray[np.integer[Any]]

_EXPLICIT = phantoms.TRANSFER_SYNTAXES["explicit"]
_TWELVE: Mapping[str, object] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2048", "WindowWidth": "4096"}
_MARKER_PX = 4


def dicom(words: Words, elements: Mapping[str, object], frame: bytes | None = None, syntax: str = _EXPLICIT) -> bytes:
    """Encode words as they are, whatever the elements state.

    Args:
        words: integers of 8 or 16 bits [rows, columns]: the pixel data, if ``frame`` is ``None``.
        elements: by keyword, in place of the usual ones; ``None`` leaves one out.
        frame: a codestream to encapsulate.
        syntax: UID of the transfer syntax.
    """
    bits = 8 * words.dtype.itemsize
    dataset = Dataset()
    usual: dict[str, object] = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": words.shape[0],
        "Columns": words.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(words.dtype.kind == "i"),
    }
    for keyword, value in {**phantoms.make_identity_elements(0), **usual, **elements}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    native = words.tobytes()
    dataset.PixelData = encapsulate([frame]) if frame is not None else native + b"\0" * (len(native) % 2)
    dataset["PixelData"].VR = "OW" if frame is None and bits == 16 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def png(words: Words, level: int = 1) -> bytes:
    """Encode a PNG of 16 bits: grey, grey with alpha, or RGB.

    Args:
        words: uint16 [rows, columns], or with 2 or 3 samples a pixel.
        level: of zlib.
    """
    rows, columns = words.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[words.shape[2] if words.ndim == 3 else 1]
    lines = words.astype(">u2").reshape(rows, -1).view(np.uint8)
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", columns, rows, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(raw, level)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def spread_over(levels: PixelArray, bits: int) -> npt.NDArray[np.uint16]:
    """Return grey levels spread over the range of so many bits."""
    table = np.floor(np.arange(256) * (((1 << bits) - 1) / 255) + 0.5).astype(np.uint16)
    words: npt.NDArray[np.uint16] = table[levels]
    return words


def full_range(bits: int) -> dict[str, object]:
    """Return the window of the full range of so many bits."""
    return {"WindowCenter": str(1 << (bits - 1)), "WindowWidth": str(1 << bits)}


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which header and pixels contradict each other.

    Attributes:
        name: as the table shows it.
        certain: the true scale can be found, so that the answer must be the plain image's.
        make: encodes grey levels as such a file.
    """

    name: str
    certain: bool
    make: Callable[[PixelArray], bytes]


def _twelve(**elements: object) -> Callable[[PixelArray], bytes]:
    return lambda levels: dicom(spread_over(levels, 12), {**_TWELVE, **elements})


def _left(levels: PixelArray) -> bytes:
    return dicom(spread_over(levels, 12) << 4, _TWELVE)


def _jpeg(levels: PixelArray) -> bytes:
    frame = bytes(imagecodecs.jpeg8_encode(levels, level=95))
    stated = {**_TWELVE, "BitsAllocated": 16, "LossyImageCompression": "01"}
    return dicom(levels, stated, frame, phantoms.TRANSFER_SYNTAXES["jpeg-extended"])


def marked(words: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return an image with a small square at the top of 16 bits burned in."""
    copy = words.copy()
    copy[8 : 8 + _MARKER_PX, 8 : 8 + _MARKER_PX] = 0xFFFF
    return copy


def _png(samples: int, *, marker: bool) -> Callable[[PixelArray], bytes]:
    def make(levels: PixelArray) -> bytes:
        words = spread_over(levels, 12)
        words = marked(words) if marker else words
        if samples == 1:
            return png(words)
        other = np.full_like(words, 0xFFFF) if samples == 2 else words
        return png(np.stack([words, other] + [words] * (samples - 2), -1))

    return make


def _inverted(kind: Kind) -> Kind:
    def make(levels: PixelArray) -> bytes:
        data = kind.make(255 - levels)
        return data.replace(b"MONOCHROME2 ", b"MONOCHROME1 ", 1)

    return Kind(f"{kind.name}, MONOCHROME1", kind.certain, make)


PLAIN = Kind("12 bits as they should be", True, _twelve())
_DICOM = (
    PLAIN,
    *(
        Kind(f"window for {bits} bits over 12 stored bits", bits > 12, _twelve(**full_range(bits)))
        for bits in (11, 13, 14, 15, 16)
    ),
    *(
        Kind(
            f"{bits} stored bits and their window over values of 12 bits",
            True,
            _twelve(BitsStored=bits, HighBit=bits - 1, **full_range(bits)),
        )
        for bits in (13, 14, 15, 16)
    ),
    Kind("window above all values", False, _twelve(WindowCenter="60000", WindowWidth="100")),
    Kind("HighBit 15 over 12 right-aligned bits", True, _twelve(HighBit=15)),
    Kind("HighBit 11 over 12 left-aligned bits", True, _left),
    Kind("BitsStored 10 over values of 12 bits", True, _twelve(BitsStored=10, HighBit=9)),
    Kind("JPEG of 8 bits, header of 12", True, _jpeg),
)
KINDS = (
    *_DICOM,
    *(_inverted(kind) for kind in _DICOM),
    *(
        Kind(f"PNG of 16 bits, {name}, values of 12 bits{', marker at 65535' * marker}", True, _png(n, marker=marker))
        for n, name in ((1, "grey"), (2, "grey with alpha"), (3, "RGB"))
        for marker in (False, True)
    ),
)
