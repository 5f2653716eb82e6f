"""Real images that are no chest radiographs, to measure the detector.

Nothing is fitted to them or chosen with them.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preread.core.errors import UnreadableError, UsageError
from preread.core.types import PixelArray
from preread.imaging.preprocessing import PreprocessingSpec, resize_to_input
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread_training.data.decoding import decode_files

_MODALITIES = ("CT", "MR", "NM", "US")
_SIDE_MIN_PX = 64
_LEVELS_MIN = 8  # of standard deviation; a flatter test image shows nothing
_PHOTOGRAPHS = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")
_LUMA = np.array([0.299, 0.587, 0.114])
_VIEWS = 10


def crop_views(image: PixelArray, spec: PreprocessingSpec, seed: int, count: int = _VIEWS) -> PixelArray:
    """Return an image and random parts of it, every second one mirrored.

    Args:
        image: uint8 [rows, columns].
        spec: to whose size they are shrunk.
        seed: of the parts.
        count: how many, the whole image included.

    Returns:
        uint8 [count, spec.rows, spec.columns].
    """
    rng = np.random.default_rng(seed)
    shown = [resize_to_input(spec, image)]
    for number in range(1, count):
        rows, columns = (int(side * rng.uniform(0.45, 1)) for side in image.shape)
        top, left = rng.integers(0, image.shape[0] - rows + 1), rng.integers(0, image.shape[1] - columns + 1)
        part = image[top : top + rows, left : left + columns]
        shown.append(resize_to_input(spec, np.ascontiguousarray(part[:, :: 1 if number % 2 else -1])))
    return np.stack(shown)


def _dicom_files() -> Iterator[Path]:
    """Return the test files of pydicom and, if installed, pydicom-data."""
    for package, folder in (("pydicom", "data/test_files"), ("data_store", "data")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted((Path(place) / folder).rglob("*.dcm"))


def _slices() -> Iterator[tuple[str, PixelArray]]:
    """Yield modality in lower case and pixels, each image once."""
    seen = set()
    for path in _dicom_files():
        try:
            radiograph = decode_radiograph(read_image_header(path.read_bytes()))
        except UnreadableError:
            continue  # these files are there to break readers; a file that cannot be read has no result anyway
        pixels, modality = radiograph.pixels, radiograph.identity.modality
        if modality not in _MODALITIES or min(pixels.shape) < _SIDE_MIN_PX or pixels.std() < _LEVELS_MIN:
            continue
        sketch = (pixels.shape, pixels[::32, ::32].tobytes())
        if sketch not in seen:
            seen.add(sketch)
            yield modality.lower(), pixels


def _photographs() -> Iterator[PixelArray]:
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread

    for name in _PHOTOGRAPHS:
        colours = np.asarray(imread(get_sample_data(name, asfileobj=False)), dtype=np.float64)[..., :3]
        yield (colours @ _LUMA * (1 if colours.max() > 1 else 255)).astype(np.uint8)


def load_package_images(spec: PreprocessingSpec) -> dict[str, PixelArray]:
    """Load the images of other kinds that installed packages contain.

    These are slices (CT, MR, NM, US) of pydicom's test files and photographs of matplotlib, each in several views.

    Args:
        spec: to whose size they are shrunk.

    Returns:
        By kind uint8 [n, spec.rows, spec.columns].
    """
    found: dict[str, list[PixelArray]] = defaultdict(list)
    for number, (kind, pixels) in enumerate(_slices()):
        found[kind].append(crop_views(pixels, spec, number))
    for number, pixels in enumerate(_photographs()):
        found["photograph"].append(crop_views(pixels, spec, number, 5 * _VIEWS))
    return {kind: np.concatenate(images) for kind, images in sorted(found.items())}


def load_folder_images(folder: Path) -> dict[str, PixelArray]:
    """Load the images of a folder that has a folder for each kind.

    Args:
        folder: such as one with the folders ``knee`` and ``hand``.

    Returns:
        By kind uint8 [n, rows, columns] as ``TRAINING_SPEC`` gives them.

    Raises:
        UsageError: there is no such folder, it holds no folder with images, or one is unreadable.
    """
    found = {}
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        paths = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
        if paths:
            with contextlib.closing(decode_files(paths)) as read:
                found[place.name] = np.stack([image for image, *_ in read])
    if not found:
        raise UsageError(f"{folder} holds no folder with images: put each kind into a folder, such as knee/")
    return found
