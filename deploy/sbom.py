"""Write the SBOM of a worker as CycloneDX: ``make sbom``.

cyclonedx-py lists what ``requirements/fleet.txt`` pins for every platform, with hashes. Each package that is pinned for
this platform gets what ``deploy.native`` finds in the installed one: every native file with its SHA-256, and every
library with its version, or "unknown version". The same environment gives the same bytes.

usage: python -m deploy.sbom FILE
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy import licences, native

_PREFIX = "preread:"


class NotAsLocked(Exception):
    """An installed package has another version than the lock."""


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"{_PREFIX}{name}", "value": value}


def _files(files: dict[str, str], kind: str) -> list[dict[str, str]]:
    return [_property(kind, f"{path} sha256:{digest}") for path, digest in sorted(files.items())]


def _library(library: native.Library, reference: str) -> dict[str, Any]:
    """Component of a library inside a package."""
    stated = library.stated
    component: dict[str, Any] = {"type": "library", "bom-ref": reference, "name": library.name}
    component |= {key: stated[key] for key in ("purl", "licenses") if key in stated}
    properties = [_property("version-from", library.source)]
    if library.version:
        component["version"] = library.version
    else:
        properties.append(_property("version", "unknown version"))
    if stated.get("version") not in {None, library.version}:
        properties.append(_property("version-in-wheel-sbom", stated["version"]))
    component["properties"] = properties + _files(library.files, "file")
    return component


def _base() -> dict[str, Any]:
    """Return the document of cyclonedx-py for the lock."""
    command = [
        sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", str(licences.FLEET),
        "--pyproject", str(licences.FLEET.parents[1] / "pyproject.toml"), "--output-reproducible", "-o", "-",
    ]  # fmt: skip
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return document


def document() -> dict[str, Any]:
    """Return the SBOM.

    Raises:
        NotAsLocked: an installed package is of another version than the lock pins.
    """
    listed = {"components": [], **_base()}
    runtime, here = set(licences.pinned()), set(licences.pinned(licences.FLEET))
    for component in listed["components"]:
        name, version = component["name"], component["version"]
        component["bom-ref"] = f"{name}@{version}"
        component.pop("description")  # the lines of the lock, which the hashes say as well
        if name in here - runtime:
            component["scope"] = "optional"  # for a fleet
        if name not in here:
            continue
        installed = importlib.metadata.version(name)
        if installed != version:
            if any(each["name"] == name and each["version"] == installed for each in listed["components"]):
                continue  # the lock has another one for this Python
            raise NotAsLocked(
                f"{name} {installed} is installed and {version} is locked: make this anew in a fresh .venv"
            )
        found = native.inside(name)
        if found is None:
            continue
        component["properties"] = component.get("properties", []) + _files(found.modules, "module")
        if found.libraries:
            component["components"] = [
                _library(library, f"{component['bom-ref']}#{key}") for key, library in sorted(found.libraries.items())
            ]
    listed["components"].append(_interpreter())
    # a lock has no edges between packages; they stand in the packages' metadata
    listed["dependencies"] = [{"ref": component["bom-ref"]} for component in listed["components"]]
    listed["dependencies"].append({"ref": listed["metadata"]["component"]["bom-ref"]})
    return listed


def _interpreter() -> dict[str, Any]:
    """Component of the Python that wrote this; a site brings its own."""
    versions = native.interpreter()
    python = versions.pop("CPython")
    reference = f"CPython@{python}"
    return {
        "type": "platform",
        "bom-ref": reference,
        "name": "CPython",
        "version": python,
        "properties": [_property("note", "of the machine that wrote this list; a site brings its own")],
        "components": [
            {"type": "library", "bom-ref": f"{reference}#{name}", "name": name, "version": version}
            for name, version in sorted(versions.items())
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the SBOM into a file and print its counts; return the exit code."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    try:
        listed = document()
    except (NotAsLocked, importlib.metadata.PackageNotFoundError, native.NotLookedInto) as error:
        sys.stderr.write(f"no list was written: {error}\n")
        return 1
    Path(path).write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    libraries = [library for component in listed["components"] for library in component.get("components", [])]
    unknown = sum("version" not in library for library in libraries)
    count = (
        f"{len(listed['components'])} components, {len(libraries)} libraries inside them, {unknown} of unknown version"
    )
    sys.stdout.write(f"{path}: {count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
