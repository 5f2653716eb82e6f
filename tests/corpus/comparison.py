"""Rendering of DICOM files by Preread and by DCMTK, compared."""

from __future__ import annotations

import multiprocessing
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from preread.core.errors import ColourNotGrey, UnreadableError
from preread.core.types import Caveat, Radiograph
from preread.imaging.radiograph import ImageHeader, decode_radiograph, read_image_header

# Programs of DCMTK by what they decode; the first also reads what is not compressed, and RLE.
PROGRAMS = ("dcmj2pnm", "dcml2pnm")
_JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
_NOT_DCMTK = ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.2")
_DCMTK_LIMIT_S = 120.0
_MAX_LEVELS = 1
# DCMTK takes the header at its word, or stretches in its own way.
_OTHER_SCALE = {Caveat.NO_WINDOW, Caveat.WINDOW_CLIPS, Caveat.WINDOW_REPLACED, Caveat.DEPTH_CORRECTED}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rendering of one file by Preread and by DCMTK.

    Attributes:
        word: ``equal`` (within one grey level), ``differs``, ``dcmtk alone``, ``preread alone``, ``neither`` or
            ``not comparable``.
        remark: the reason, or the largest difference in grey levels (0 to 255) and the share of pixels that differ.
    """

    word: str
    remark: str = ""


def by_dcmtk(path: Path, header: ImageHeader | None) -> np.ndarray | str:
    """Render the first frame of a file with DCMTK: with its first VOI LUT or window, without overlays.

    Args:
        path: a DICOM file.
        header: its header; ``None`` if Preread cannot read it.

    Returns:
        uint8 [rows, columns], or [rows, columns, 3] for colour; the message of DCMTK if it renders nothing.
    """
    dataset = Dataset() if header is None or header.file is None else header.file.dataset
    options = ["+Wl", "1"] if "VOILUTSequence" in dataset else ["+Wi", "1"] if "WindowCenter" in dataset else []
    program = PROGRAMS[header is not None and header.transfer_syntax_uid in _JPEG_LS]
    with tempfile.TemporaryDirectory(prefix="preread-corpus-") as folder:
        target = Path(folder) / "image.pnm"
        command = [program, "-O", *options, str(path), str(target)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=_DCMTK_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"{program} took longer than {_DCMTK_LIMIT_S:.0f} s"
        if done.returncode or not target.is_file():
            return done.stderr.decode("utf-8", "replace").strip().splitlines()[-1] if done.stderr else "no message"
        with Image.open(target) as image:
            return np.array(image)


def compare(path: Path) -> Comparison:
    """Render a file with Preread and with DCMTK, and compare the grey levels."""
    header: ImageHeader | None = None
    radiograph: Radiograph | str
    try:
        header = read_image_header(path.read_bytes())
        if header.file is None:
            return Comparison("not comparable", "not DICOM")
        if header.number_of_frames > 1 or not header.has_pixels or not header.is_image:
            return Comparison("not comparable", "no image of one frame")
        if (header.transfer_syntax_uid or "").startswith(_NOT_DCMTK):
            return Comparison("not comparable", "DCMTK has no decoder for JPEG 2000")
        radiograph = decode_radiograph(header)
    except ColourNotGrey:
        return Comparison("not comparable", "colour")
    except UnreadableError as error:
        radiograph = error.code
    shown = by_dcmtk(path, header)
    if isinstance(radiograph, str):
        return Comparison("neither", radiograph) if isinstance(shown, str) else Comparison("dcmtk alone", radiograph)
    if isinstance(shown, str):
        return Comparison("preread alone", shown)
    if _OTHER_SCALE & set(radiograph.caveats):
        return Comparison("not comparable", "not shown with the window of its header")
    if shown.ndim != 2:
        return Comparison("not comparable", "colour")
    if shown.shape != radiograph.pixels.shape:
        return Comparison("differs", f"size {radiograph.pixels.shape} and {shown.shape}")
    apart = np.abs(shown.astype(np.int16) - radiograph.pixels)
    if apart.max() <= _MAX_LEVELS:
        return Comparison("equal")
    share = float((apart > _MAX_LEVELS).mean())
    caveats = ", ".join(caveat.value for caveat in radiograph.caveats)
    return Comparison("differs", f"by {apart.max()} at most, {share:.1%} of the pixels; caveats: {caveats or 'none'}")


def compare_all(paths: list[Path]) -> Iterator[Comparison]:
    """Yield the comparison of each file in order; a file that ends its process is named."""
    context = multiprocessing.get_context("spawn")
    left = list(paths)
    while left:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            for number, path in enumerate(left):
                try:
                    yield pool.submit(compare, path).result()
                except BrokenProcessPool:
                    yield Comparison("dcmtk alone", "the process that rendered it ended")
                    left = left[number + 1 :]
                    break
            else:
                left = []
