"""Phantoms: drawn the same each time, and never to be taken for a patient's film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preread.core.types import Declared, IntendedUse, Population, RefusalCode
from preread.imaging.radiograph import decode_radiograph, read_image_header
from preread.model.intended_use import check_intended_use
from preread_training.data import phantoms
from preread_training.data.phantoms import Encoding

USE = IntendedUse(("CR", "DX"), ("AP", "PA"), 1.0, 6.0, ("CHEST",), "")


@pytest.mark.parametrize("shape", [(64, 64), (512, 512), (420, 512), (300, 200)])
def test_a_seed_gives_one_drawing(shape: tuple[int, int]) -> None:
    film = phantoms.draw_chest(3, rows=shape[0], columns=shape[1])
    assert film.shape == shape
    assert film.dtype == np.uint8
    assert np.array_equal(film, phantoms.draw_chest(3, rows=shape[0], columns=shape[1]))
    assert not np.array_equal(film, phantoms.draw_chest(4, rows=shape[0], columns=shape[1]))


@pytest.mark.parametrize("seed", range(6))
def test_black_and_white_are_there_for_a_stretch_to_hold_on_to(seed: int) -> None:
    film = phantoms.draw_chest(seed, rows=64, columns=64)
    assert (film == 0).mean() > 0.005
    assert (film == 255).mean() > 0.005


def test_the_demo_films_are_read_and_say_that_they_are_drawn() -> None:
    refusals: dict[str, RefusalCode] = {}
    for name, data in phantoms.make_demo_files():
        assert "phantom" in name
        header = read_image_header(data)
        verdict = check_intended_use(header, USE, Declared())
        if header.format == "DICOM":
            assert header.identity.patient_name is not None
            assert header.identity.patient_name.startswith("Phantom^")
            assert header.identity.patient_id is not None
            assert header.identity.patient_id.startswith("PHANTOM-")
        if verdict.refusal:
            refusals[name] = verdict.refusal[0]
        assert decode_radiograph(header).pixels.shape == (512, 512)
    assert refusals == {
        "phantom-adult.dcm": RefusalCode.AGE_OUTSIDE,
        "phantom-lateral.dcm": RefusalCode.VIEW,
        "phantom.jpg": RefusalCode.AGE_UNKNOWN,
        "phantom-16-bit.png": RefusalCode.AGE_UNKNOWN,
    }


def test_the_demo_films_are_one_drawing() -> None:
    """What differs between their answers is the encoding's doing; lossy ones and windows move greys a little."""
    first, *others = [
        decode_radiograph(read_image_header(data)).pixels.astype(int) for _, data in phantoms.make_demo_files()
    ]
    assert all(np.abs(first - other).mean() < 6 for other in others)


def test_every_demo_film_passes_in_a_root_for_its_kind() -> None:
    for name, data in phantoms.make_demo_files():
        declared = Declared(Population.RESEARCH)
        assert check_intended_use(read_image_header(data), USE, declared).refusal is None, name


def test_examples_are_written_to_a_folder(tmp_path: Path) -> None:
    written = phantoms.write_examples(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert len(written) == len(phantoms.TRANSFER_SYNTAXES) + 5


def test_every_instance_has_uids_of_its_own() -> None:
    films = [read_image_header(data).identity for _, data in phantoms.make_demo_files()]
    uids = [film.sop_instance_uid for film in films if film.sop_instance_uid]
    assert len(uids) == len(set(uids)) == len(phantoms.TRANSFER_SYNTAXES) + 3


def test_an_encoding_that_cannot_be_is_an_error() -> None:
    film = phantoms.draw_chest(0, rows=64, columns=64)
    with pytest.raises(ValueError, match="may have 65536"):
        phantoms.to_dicom(film, Encoding(bits=16, slope=2.0, voi="lut"))
