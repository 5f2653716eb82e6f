"""The public API: its example runs, importing it is cheap, and it never guesses a population."""

from __future__ import annotations

import doctest
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import preread
from preread_training.data.phantoms import draw_chest, to_dicom, to_png

HEAVY = {"numpy", "sqlalchemy", "pydicom", "pydantic", "ai_edge_litert", "typer", "preread.core", "preread.model"}


@pytest.fixture(scope="module")
def classifier() -> preread.Classifier:
    return preread.load_bundle()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    drawing = draw_chest(20)
    (tmp_path / "chest.dcm").write_bytes(to_dicom(drawing))
    (tmp_path / "lateral.dcm").write_bytes(to_dicom(drawing, ViewPosition="LL"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_in_the_documentation_runs(folder: Path) -> None:
    results = doctest.testmod(preread, verbose=False)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("program", ["import preread", "import preread; preread.__version__; dir(preread)"])
def test_importing_it_loads_nothing_heavy(program: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "preread" in answer.stdout.split()
    assert not HEAVY & set(answer.stdout.split())


def test_every_public_name_resolves_and_is_listed() -> None:
    assert preread.__all__ == sorted(preread.__all__)
    for name in preread.__all__:
        assert getattr(preread, name) is not None
        assert name in dir(preread)
    assert preread.__version__ == importlib.metadata.version("preread")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'diagnose'"):
        preread.diagnose  # noqa: B018


def test_a_path_and_its_bytes_give_the_same_result(folder: Path, classifier: preread.Classifier) -> None:
    path = folder / "chest.dcm"
    results = [
        preread.assess(image, classifier, population=preread.Population.CHILDREN_1_5Y)
        for image in (path, str(path), path.read_bytes())
    ]
    assert [isinstance(result, preread.Assessment) for result in results] == [True] * 3
    assert len({result.findings for result in results if isinstance(result, preread.Assessment)}) == 1
    assert len({result.sha256 for result in results}) == 1


def test_a_population_decides_about_images_that_state_no_age(classifier: preread.Classifier) -> None:
    image = to_png(draw_chest(20))
    declared = preread.assess(image, classifier, population="children-1-5y")
    undeclared = preread.assess(image, classifier, population="undeclared")
    assert isinstance(declared, preread.Assessment)
    assert preread.Caveat.AGE_DECLARED in declared.caveats
    assert isinstance(undeclared, preread.Refusal)
    assert undeclared.code is preread.RefusalCode.AGE_UNKNOWN


def test_a_missing_population_is_an_error(classifier: preread.Classifier) -> None:
    call: Any = preread.assess
    with pytest.raises(TypeError, match="population"):
        call(b"", classifier)


@pytest.mark.parametrize("population", [None, "", "adults"])
def test_an_invalid_population_is_an_error_that_lists_the_values(
    population: Any, classifier: preread.Classifier
) -> None:
    with pytest.raises(preread.UsageError, match="undeclared, children-1-5y, research"):
        preread.assess(b"", classifier, population=population)


def test_unreadable_images_and_missing_files_are_errors(folder: Path, classifier: preread.Classifier) -> None:
    with pytest.raises(preread.UnreadableError) as caught:
        preread.assess(b"text", classifier, population="research")
    assert caught.value.code == "unknown_format"
    with pytest.raises(FileNotFoundError):
        preread.assess(folder / "none.dcm", classifier, population="research")


def test_a_missing_bundle_is_an_error() -> None:
    with pytest.raises(preread.BundleError) as caught:
        preread.load_bundle("none/1.0.0")
    assert caught.value.code == "bundle_missing"
