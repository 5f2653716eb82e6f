"""Damaged films of every kind: each ends in a radiograph or in a named error, and in nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preread.core.errors import UnreadableError
from preread.core.types import Declared, IntendedUse
from preread.imaging.radiograph import ImageLimits, decode_radiograph, read_image_header
from preread.model.intended_use import check_intended_use
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

FILM = phantoms.draw_chest(5, rows=48, columns=48)
USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "")
# A damaged header may claim anything; what it claims must not cost the test run its memory.
LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=100_000)
FILES = {
    **{name: phantoms.to_dicom(FILM, encoding) for name, encoding in phantoms.list_encodings()},
    "bare": phantoms.to_dicom(FILM, Encoding("implicit", preamble=False)),
    "jpeg": phantoms.to_jpeg(FILM),
    "png": phantoms.to_png(FILM, bits=16),
}


def ends_well(data: bytes) -> None:
    try:
        header = read_image_header(data, LIMITS)
        check_intended_use(header, USE, Declared())
        radiograph = decode_radiograph(header, LIMITS)
    except tuple(UnreadableError.__subclasses__()):  # each with a name of its own, and not the general one
        return
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.ndim == 2
    assert radiograph.pixels.size <= LIMITS.max_pixels


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(FILES)), share=st.floats(0, 1))
def test_a_film_cut_anywhere(name: str, share: float) -> None:
    ends_well(FILES[name][: int(len(FILES[name]) * share)])


@settings(max_examples=600)
@given(
    name=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_a_film_with_bytes_changed(name: str, changes: list[tuple[float, bool, int]]) -> None:
    """Half of the changes fall into the first part, where the header stands."""
    data = bytearray(FILES[name])
    for share, in_header, value in changes:
        data[int(share * (min(len(data), 1600) if in_header else len(data)) * 0.999)] = value
    ends_well(bytes(data))


@settings(max_examples=200)
@given(name=st.sampled_from(sorted(FILES)), share=st.floats(0, 1), more=st.binary(max_size=40), less=st.integers(0, 40))
def test_a_film_with_bytes_lost_or_added(name: str, share: float, more: bytes, less: int) -> None:
    data = FILES[name]
    place = int(len(data) * share)
    ends_well(data[:place] + more + data[place + less :])


@given(st.binary(max_size=400))
@example(b"\x08\x00\x05\x00CS")
@example(b"\x02\x00\x00\x00UL\x04\x00" + bytes(4))
@example(bytes(128) + b"DICM" + b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")
def test_any_bytes(data: bytes) -> None:
    ends_well(data)
