"""The list of what a worker installs, made from the packages that are installed here."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import _openjpeg
import psycopg
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PIL import features

from deploy import licences, native, sbom
from tests.support.paths import REPOSITORY


def made(folder: Path) -> str:
    """A new list, from a process of its own: it loads each library that it asks for its version."""
    command: list[str | Path] = [sys.executable, "-m", "deploy.sbom", folder / "preread.cdx.json"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "libraries inside them" in done.stdout
    return (folder / "preread.cdx.json").read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(tmp_path_factory.mktemp("sbom"))


@pytest.fixture(scope="module")
def components(text: str) -> dict[str, dict[str, Any]]:
    """Those that this platform installs, by name."""
    here = {name: importlib.metadata.version(name) for name in licences.pinned(licences.FLEET)}
    listed = json.loads(text)["components"]
    return {one["name"]: one for one in listed if here.get(one["name"], one["version"]) == one["version"]}


def properties(component: dict[str, Any], name: str) -> list[str]:
    return [each["value"] for each in component.get("properties", []) if each["name"] == f"preread:{name}"]


def version_inside(components: dict[str, dict[str, Any]], package: str, library: str) -> str | None:
    (found,) = [each for each in components[package]["components"] if each["name"] == library]
    version: str | None = found.get("version")
    assert (version is None) == (properties(found, "version") == ["unknown version"])
    return version


def test_it_is_valid_and_the_same_each_time(text: str, tmp_path: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert made(tmp_path) == text


def test_each_native_file_is_listed_once_with_its_hash(components: dict[str, dict[str, Any]]) -> None:
    for name in licences.pinned(licences.FLEET):
        there = {}
        for file in importlib.metadata.distribution(name).files or []:
            path = Path(str(file.locate()))
            if path.is_file() and (content := path.read_bytes()).startswith(b"\x7fELF"):
                there[str(file)] = hashlib.sha256(content).hexdigest()
        component = components[name]
        lines = properties(component, "module")
        lines += [line for each in component.get("components", []) for line in properties(each, "file")]
        assert sorted(lines) == sorted(f"{file} sha256:{digest}" for file, digest in there.items())


def test_each_library_has_a_version_with_its_source_or_says_that_it_is_unknown(
    components: dict[str, dict[str, Any]],
) -> None:
    libraries = [(name, each) for name, component in components.items() for each in component.get("components", [])]
    assert len(libraries) > 50
    for name, library in libraries:
        assert ("version" in library) != (properties(library, "version") == ["unknown version"])
        if name != "CPython":
            assert len(properties(library, "version-from")) == 1
    known = [library for _, library in libraries if "version" in library]
    assert len(known) > 2 * (len(libraries) - len(known))


def test_the_decoders_and_databases_are_known(components: dict[str, dict[str, Any]]) -> None:
    assert version_inside(components, "pylibjpeg-openjpeg", "openjpeg") == _openjpeg.get_version().decode()
    assert version_inside(components, "pillow", "openjpeg") == features.version("jpg_2000")
    assert version_inside(components, "pillow", "jpeg-turbo") == features.version("libjpeg_turbo")
    assert version_inside(components, "pillow", "zlib-ng") == features.version("zlib_ng")
    number = psycopg.pq.version()
    assert version_inside(components, "psycopg-binary", "pq") == f"{number // 10000}.{number % 10000}"
    assert version_inside(components, "CPython", "SQLite") == sqlite3.sqlite_version
    wanted = {
        "ai-edge-litert": {"tensorflow-lite"},
        "imagecodecs": {"charls", "jpeg-turbo", "openjpeg", "tiff", "zstd"},
        "isal": {"isa-l"},
        "numpy": {"openblas"},
        "psycopg-binary": {"krb5", "openssl"},
        "pyjpegls": {"charls"},
    }
    for package, names in wanted.items():
        assert all(version_inside(components, package, name) for name in names), package


def test_what_wheels_say_of_themselves_is_taken_in(components: dict[str, dict[str, Any]]) -> None:
    crates = [each for each in components["pydantic-core"]["components"] if each["purl"].startswith("pkg:cargo/")]
    assert len(crates) > 50
    assert {source for each in crates for source in properties(each, "version-from")} == {
        "pydantic-core.cyclonedx.json in the wheel"
    }


def test_a_native_package_that_was_not_looked_into_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(native.LINKED, "ai-edge-litert")
    assert sbom.main([str(tmp_path / "list.json")]) == 1
    assert "ai-edge-litert has" in capsys.readouterr().err
    assert not (tmp_path / "list.json").exists()


def test_what_is_installed_must_be_what_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "requirements" / "fleet.txt"
    lock.parent.mkdir()
    lock.write_text(licences.FLEET.read_text().replace("ai-edge-litert==", "ai-edge-litert==99."))
    (tmp_path / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    monkeypatch.setattr(licences, "FLEET", lock)
    assert sbom.main([str(tmp_path / "list.json")]) == 1
    assert "is installed and 99." in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, library",
    [
        ("libopenjp2-e530e1bf.so.2.5.4", "openjpeg"),
        ("libjpeg-f212e7a6.so.8.3.2", "jpeg-turbo"),
        ("libgfortran-040039e1-0352e75f.so.5.0.0", "gfortran"),
        ("libscipy_openblas64_-32a4b2a6.so", "openblas"),
        ("libcom_err-55c5739a.so.3.0", "krb5"),
        ("libcom_err-2abe824b.so.2.1", "com-err"),
        ("libjxl_cms-fc18f9ea.so.0.11.2", "jxl"),
    ],
)
def test_a_shared_object_is_known_by_its_name(tmp_path: Path, name: str, library: str) -> None:
    assert native.library_of(tmp_path / name) == library
