"""Decoding of files to training images, in inference processes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path

from preread.core.errors import EnvironmentFault, PrereadError, UsageError
from preread.core.types import Identity, PixelArray
from preread.imaging.preprocessing import TRAINING_SPEC
from preread.runner.assess_files import InputFile, Processes, decode_training_images


def decode_files(
    paths: Sequence[Path], processes: Processes | None = None
) -> Generator[tuple[PixelArray, str, Identity], None, None]:
    """Decode files to training images in inference processes.

    Args:
        paths: the files, in the order of the results.
        processes: inference processes that read the files; ``None``: one for each core.

    Yields:
        Pixels, uint8 [rows, columns] as ``TRAINING_SPEC`` gives them; SHA-256 (hex) of the bytes; identity.

    Raises:
        UsageError: a file is unreadable, or ends its process; it is named.
    """
    with contextlib.closing(
        decode_training_images((InputFile(str(path), named=True) for path in paths), processes)
    ) as reads:
        for path, read in zip(paths, reads, strict=True):
            if isinstance(read.ended, EnvironmentFault):
                raise UsageError(f"{path} cannot be read ({read.ended}): check that the file exists and may be read")
            if isinstance(read.ended, PrereadError) or read.sha256 is None:
                raise UsageError(f"{path} is unreadable ({read.ended.code}: {read.ended}): repair it or leave it out")
            try:
                image = read.ended.picture(TRAINING_SPEC.rows, TRAINING_SPEC.columns)
            except ValueError:
                size = f"{TRAINING_SPEC.rows}x{TRAINING_SPEC.columns}"
                raise UsageError(f"{path} is unreadable (no pixels of {size} came back): leave it out") from None
            yield image, read.sha256, read.ended.identity
