"""Decode files to training images in inference processes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path

from preread.core.errors import EnvironmentFault, PrereadError, UsageError
from preread.core.types import Identity, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.runner.assess_files import InputFile, Processes, decode_images


def read_pictures(
    paths: Sequence[Path], processes: Processes | None = None
) -> Generator[tuple[PixelArray, str, Identity], None, None]:
    """Yield pixels, SHA-256 and identity of each file.

    Pixels are uint8 with the shape of ``TRAINING_SPEC``.

    Args:
        processes: in which the files are read; by default one for each core.

    Raises:
        UsageError: a file is unreadable, or ends its process; it is named.
    """
    with contextlib.closing(decode_images((InputFile(str(path), named=True) for path in paths), processes)) as reads:
        for path, read in zip(paths, reads, strict=True):
            if isinstance(read.ended, EnvironmentFault):
                raise UsageError(f"{path} cannot be read: {read.ended}")
            if isinstance(read.ended, PrereadError) or read.sha256 is None:
                raise UsageError(f"{path} is unreadable ({read.ended.code}): {read.ended}")
            try:
                picture = read.ended.picture(TRAINING_SPEC.rows, TRAINING_SPEC.columns)
            except ValueError:
                raise UsageError(f"{path} is unreadable: its process answered with no picture of that size") from None
            yield picture, read.sha256, read.ended.identity
