"""The training images as the network receives them, byte by byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from preread.imaging.preprocessing import TRAINING_SPEC, normalise_grey_levels, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data import dataset

pytestmark = pytest.mark.films

# Of one line for each image, sorted: its path below the folder, and the SHA-256 of its float32 tensor. Another value
# means that networks get other inputs than those on which the shipped bundle was fitted.
DIGEST = "17c56ac5957968ede21e3a3d0de2282bf66838007eea21fe9db1fda4d986cdcf"


def test_the_tensors_of_the_training_images_are_unchanged(films: Path) -> None:
    folder = films / "chest_xray_224" / "train"
    paths = sorted(film.path for film in dataset.list_labelled_images(folder))
    assert len(paths) == 5216
    lines = []
    for path in paths:
        pixels = decode_radiograph(read_image_header(path.read_bytes())).pixels
        tensor = normalise_grey_levels(TRAINING_SPEC, resize_to_input(TRAINING_SPEC, pixels))
        assert tensor.shape == (224, 224)
        lines.append(f"{path.relative_to(folder).as_posix()} {hashlib.sha256(tensor.tobytes()).hexdigest()}\n")
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == DIGEST
