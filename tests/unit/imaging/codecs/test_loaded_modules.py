"""Which codecs a process has loaded that decoded a film of every kind: those that read films, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preread_training.data import phantoms
from tests.programs import mutations

FILM = phantoms.draw_chest(1, rows=96, columns=96)
PROGRAM = """
import json, sys
from pathlib import Path
from preread.imaging.radiograph import decode_radiograph, read_image_header

for path in sys.argv[1:]:
    for side in (None, 20):
        decode_radiograph(read_image_header(Path(path).read_bytes()), shorter_side_px=side)
mapped = {Path(line.split()[-1]) for line in open("/proc/self/maps") if line.rstrip().endswith(".so")}
print(json.dumps([sorted(sys.modules), sorted(str(path) for path in mapped)]))
"""
# As an inference process begins: what is not imported by then, it cannot import any more.
LATE = """
import sys
from pathlib import Path
from preread.core.errors import PrereadError
from preread.imaging.preview_png import encode_preview
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model import assess, bundles
from preread.runner.confine import self_test

self_test.import_image_modules()
self_test.run_self_test(self_test.make_test_images(), None)
known = set(sys.modules)
for path in sys.argv[1:]:
    try:
        encode_preview(decode_radiograph(read_image_header(Path(path).read_bytes())).pixels)
    except PrereadError:
        pass
    if late := sorted(set(sys.modules) - known):
        print(path, late)
        known |= {*late}
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[Path]]:
    folder = tmp_path_factory.mktemp("films")
    films = {
        f"{number}": phantoms.to_dicom(FILM, encoding) for number, (_, encoding) in enumerate(phantoms.list_encodings())
    }
    films |= {"jpeg": phantoms.to_jpeg(FILM), "png": phantoms.to_png(FILM)}
    for name, content in films.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, *(str(folder / name) for name in films)]
    modules, mapped = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return set(modules), {Path(path) for path in mapped}


def test_of_imagecodecs_three_codecs_are_loaded(loaded: tuple[set[str], set[Path]]) -> None:
    modules, mapped = loaded
    shared = {"imagecodecs._shared", "imagecodecs._shared_cython"}
    codecs = {name for name in modules if name.startswith("imagecodecs._")}
    assert codecs - shared == {"imagecodecs._imcd", "imagecodecs._jpeg8", "imagecodecs._png"}
    objects = {path.name.split(".")[0] for path in mapped if path.parent.name == "imagecodecs"}
    assert objects - {"_shared", "_shared_cython"} == {"_imcd", "_jpeg8", "_png"}


def test_of_pillow_three_formats_are_loaded(loaded: tuple[set[str], set[Path]]) -> None:
    modules, mapped = loaded
    formats = {name for name in modules if name.startswith("PIL.") and name.endswith("ImagePlugin")}
    # TIFF's is Python alone, and reads EXIF
    assert formats - {"PIL.TiffImagePlugin"} == {
        "PIL.Jpeg2KImagePlugin",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
    }
    objects = {path.name.split(".")[0] for path in mapped if path.parent.name == "PIL"}
    assert not objects & {"_avif", "_webp", "_imagingft", "_imagingtk"}


def test_no_image_imports_a_module_that_the_self_test_has_not_imported(tmp_path: Path) -> None:
    for name, content in mutations.seeds().items():
        (tmp_path / name.replace("/", "-")).write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", LATE, *sorted(str(path) for path in tmp_path.iterdir())]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""
