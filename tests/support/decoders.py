"""What reaches a decoder: frames under a header of their own, and a record of the bytes that decoders get."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import imagecodecs
import jpeg_ls
import numpy as np
import openjpeg
from PIL import Jpeg2KImagePlugin
from pydicom.dataset import Dataset

from preread.core.errors import UnreadableError
from preread.imaging import raster
from preread.imaging.codecs import decoders
from preread.imaging.codecs.decoders import PixelModule
from preread.imaging.data_set import PixelSpan
from preread.imaging.dicom_file import DicomFile


def items(*fragments: bytes) -> bytes:
    """Encapsulated pixel data (PS3.5 A.4), without an offset table."""
    written = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in (b"", *fragments))
    return written + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def stored(frame: bytes, syntax: str, like: np.ndarray, *, bits: int | None = None, halvings: int = 0) -> np.ndarray:
    """Decode a frame under a header that says the size, depth and sign of an array."""
    allocated = 8 * like.dtype.itemsize
    bits = bits or allocated
    samples = 1 if like.ndim == 2 else 3
    colours = "MONOCHROME2" if samples == 1 else "RGB"
    signed = like.dtype.kind == "i"
    module = PixelModule(like.shape[0], like.shape[1], samples, allocated, bits, bits - 1, signed, colours, 0)
    file = DicomFile(Dataset(), syntax, None, True, items(frame), PixelSpan(0x7FE00010, "OB", 0, None))
    return decoders.decode_stored_values(file, module, halvings).values


@contextmanager
def recorded() -> Iterator[list[bytes]]:
    """Yield a list that every frame or file goes into that a decoder is called with while the block runs."""
    handed: list[bytes] = []

    def watched(decoder: Callable[..., Any]) -> Callable[..., Any]:
        def call(data: bytes | io.BytesIO, *rest: Any, **named: Any) -> Any:
            handed.append(data.getvalue() if isinstance(data, io.BytesIO) else bytes(data))
            return decoder(data, *rest, **named)

        return call

    places = (
        (openjpeg, "decode_pixel_data"),
        (jpeg_ls, "decode_pixel_data"),
        (imagecodecs, "jpeg8_decode"),
        (imagecodecs, "packbits_decode"),
        (Jpeg2KImagePlugin, "Jpeg2KImageFile"),
    )
    forms = {kind: form._replace(reader=watched(form.reader)) for kind, form in raster._FORMATS.items()}
    with ExitStack() as stack:
        for module, name in places:
            stack.enter_context(mock.patch.object(module, name, watched(getattr(module, name))))
        stack.enter_context(mock.patch.object(raster, "_FORMATS", forms))
        yield handed


def outcome(read: Callable[[], np.ndarray]) -> tuple[list[bytes], np.ndarray | None, str]:
    """Return what decoders were handed, and the pixels or the name of the error."""
    with recorded() as handed:
        try:
            return handed, read(), ""
        except tuple(UnreadableError.__subclasses__()) as error:  # each with a name of its own, not the general one
            return handed, None, str(error.code)
