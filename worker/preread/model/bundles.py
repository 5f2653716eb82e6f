"""Model bundles: folders with a manifest that has all files' hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from preread.core.errors import BundleDamaged, BundleMissing, UsageError
from preread.core.types import ImageStatistics, IntendedUse, JSONObject
from preread.imaging.preprocessing import PreprocessingSpec
from preread.model.calibration import FindingSpec
from preread.model.distributions import Reference
from preread.model.out_of_scope import ScopeSpec

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.tflite"
GOLDEN_FILE = "golden/vectors.npz"
CARD_FILE = "card.md"
DETECTOR_FILE = "detector.npz"
MANIFEST_SCHEMA = 2
_FOLDER = Path(__file__).parents[1] / "bundles"
DEFAULT_NAME = "pneumonia-children"
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Manifest of a bundle: all run-time parameters, and the training record.

    Attributes:
        manifest_schema: version of this structure.
        name: lower-case letters, digits, dots and dashes.
        version: the same; a published version never changes.
        licence: of the weights.
        intended_use: images that the bundle may assess.
        preprocessing: conversion of pixels to network input.
        findings: one for each column of the network's output ``logit``, in order.
        preprocessing_digest: must equal ``preprocessing.digest``.
        golden_tolerance: largest allowed absolute difference in logit from the reference outputs.
        training: data, counts, hashes, sources, licence, recipe, seeds, environment.
        metrics: measured metrics with intervals, and the images they were measured on.
        files: path relative to the folder -> SHA-256 (hex) of the file's bytes.
        scope: thresholds of the out-of-scope detector.
        reference: distributions of the images of the metrics, for `preread drift`; ``None`` in older bundles.
    """

    manifest_schema: int
    name: str
    version: str
    licence: str
    intended_use: IntendedUse
    preprocessing: PreprocessingSpec
    preprocessing_digest: str
    findings: tuple[FindingSpec, ...]
    golden_tolerance: float
    training: JSONObject
    metrics: JSONObject
    files: dict[str, str]
    scope: ScopeSpec
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.manifest_schema != MANIFEST_SCHEMA:
            raise ValueError(f"manifest_schema is {self.manifest_schema}; this version supports {MANIFEST_SCHEMA}")
        if not (_SAFE_NAME.fullmatch(self.name) and _SAFE_NAME.fullmatch(self.version)):
            raise ValueError(
                f"name is {self.name!r} and version {self.version!r}; both must be 1 to 64 lower-case letters, digits, "
                "dots and dashes"
            )
        if self.preprocessing_digest != self.preprocessing.digest:
            raise ValueError(
                f"preprocessing_digest is {self.preprocessing_digest[:64]}; the section preprocessing has "
                f"{self.preprocessing.digest}"
            )
        if not self.findings:
            raise ValueError("findings has 0 entries; a bundle needs at least 1")
        if self.reference is not None:
            if unknown := self.reference.probability.keys() - {finding.finding for finding in self.findings}:
                raise ValueError(
                    f"reference.probability has {', '.join(sorted(unknown))}; findings has "
                    f"{', '.join(finding.finding for finding in self.findings)} only"
                )
            if unknown := self.reference.picture.keys() - {field.name for field in fields(ImageStatistics)}:
                raise ValueError(
                    f"`reference.picture` has {', '.join(sorted(unknown))}; the image statistics are "
                    f"{', '.join(field.name for field in fields(ImageStatistics))}"
                )
        for file in self.files:
            if os.path.isabs(file) or ".." in Path(file).parts:
                raise ValueError(f"files has the path {file}, which must be relative and within the bundle's folder")
        if missing := {WEIGHTS_FILE, GOLDEN_FILE, CARD_FILE, DETECTOR_FILE} - self.files.keys():
            raise ValueError(f"files lacks {', '.join(sorted(missing))}, which every bundle must have")


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Bundle:
    """Model bundle on disk whose hashes were verified.

    Attributes:
        path: its folder.
        manifest: its manifest.
        digest: SHA-256 (hex) of the manifest, which has the hashes of all other files.
    """

    path: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """Name and version of the bundle as ``name/version``."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @cached_property
    def manifest_json(self) -> str:
        """Content of ``manifest.json`` as text."""
        return (self.path / MANIFEST_FILE).read_text(encoding="utf-8")

    @property
    def registration(self) -> dict[str, str]:
        """Attributes of the bundle for the database.

        They are the arguments of ``register_bundle``.
        """
        manifest = self.manifest
        return {
            "name": manifest.name,
            "version": manifest.version,
            "digest": self.digest,
            "manifest": self.manifest_json,
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_bundle(path: Path) -> Bundle:
    """Load a model bundle: read its manifest, verify its files' hashes.

    Args:
        path: folder of the bundle.

    Raises:
        BundleMissing: there is no manifest.
        BundleDamaged: the manifest is invalid, or a file is missing or differs.
    """
    file = path / MANIFEST_FILE
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleMissing(f"there is no bundle at {path}: {MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise BundleDamaged(f"the manifest {file} cannot be read: {error.strerror}") from error
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleDamaged(f"{file}: {where}: {first['msg']}") from None
    for name, expected in manifest.files.items():
        try:
            actual = _sha256(path / name)
        except OSError as error:
            raise BundleDamaged(f"the bundle's file {path / name} cannot be read: {error.strerror}") from error
        if actual != expected:
            raise BundleDamaged(f"the SHA-256 of {path / name} is {actual}; the manifest has {expected}")
    return Bundle(path, manifest, hashlib.sha256(data).hexdigest())


def _order(path: Path) -> tuple[str, list[int], bool, str]:
    """Sort key: name, version numbers; ``1.0.0-rc1`` before ``1.0.0``."""
    numbers, _, suffix = path.name.partition("-")
    return path.parent.name, [int(part) if part.isdigit() else -1 for part in numbers.split(".")], not suffix, suffix


def list_bundles(folder: Path | None = None) -> list[Path]:
    """List the folders of the bundles in one folder, by name and version.

    Args:
        folder: folder with ``name/version`` in it; ``None`` for the bundles that ship with Preread.
    """
    candidates = (file.parent for file in (folder or _FOLDER).glob(f"*/*/{MANIFEST_FILE}"))
    return sorted((path for path in candidates if not path.name.startswith(".")), key=_order)


def list_all_bundles(added: Path | None) -> list[Path]:
    """List the folders of shipped and added bundles, by name and version.

    Args:
        added: folder of added bundles; ``None`` for the bundles that ship with Preread only.
    """
    return sorted(list_bundles() + (list_bundles(added) if added is not None else []), key=_order)


def locate_added_bundles(configured: Path | None, database: Path | None) -> Path | None:
    """Return the folder in which added bundles are stored.

    Args:
        configured: folder from the settings.
        database: the SQLite file; ``None`` with Postgres.

    Returns:
        The configured folder, else one beside the SQLite file; ``None`` if there is neither.
    """
    if configured is not None:
        return Path(os.path.abspath(configured))
    return None if database is None else Path(f"{os.path.abspath(database)}-bundles")


def find_bundle(name: str | None = None, added: Path | None = None) -> Path:
    """Find the folder of a model bundle by its name, version or path.

    Args:
        name: folder, ``name/version`` or ``name`` (newest version); ``None`` for the default bundle, which ships with
            Preread, so that adding a bundle does not change it.
        added: folder of added bundles, searched for names as well.

    Raises:
        BundleMissing: there is no such bundle.
    """
    if name is not None and (Path(name) / MANIFEST_FILE).is_file():
        return Path(name)
    parts = (name or DEFAULT_NAME).split("/")
    candidates = list_bundles() if name is None else list_all_bundles(added)
    matching = [path for path in candidates if [path.parent.name, path.name][: len(parts)] == parts]
    if not matching:
        labels = ", ".join(f"{path.parent.name}/{path.name}" for path in candidates) or "none"
        raise BundleMissing(
            f"no bundle {name or DEFAULT_NAME} is installed, and no folder of this name has a {MANIFEST_FILE}: choose "
            f"one of {labels}"
        )
    return matching[-1]


def publish_bundle(
    folder: Path,
    manifest: JSONObject,
    write: Callable[[Path], None],
    check: Callable[[Bundle], object] = lambda _: None,
) -> Bundle:
    """Write a new model bundle to ``folder/name/version``, or nothing.

    Args:
        folder: folder with ``name/version`` in it.
        manifest: all fields but ``files``, which is set here.
        write: called with a folder, into which it writes the files.
        check: called with the finished bundle before it gets its name; its exceptions are raised.

    Raises:
        UsageError: this version exists; a published version never changes.
        BundleDamaged: the written files cannot be verified.
    """
    target = folder / manifest["name"] / manifest["version"]
    if target.exists():
        raise UsageError(f"{target} exists, and a published version never changes: choose a new version")
    part = _create_partial(target)
    write(part)
    files = {str(file.relative_to(part)): _sha256(file) for file in sorted(part.rglob("*")) if file.is_file()}
    text = json.dumps({**manifest, "files": files}, indent=2, sort_keys=True, ensure_ascii=False)
    (part / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    check(load_bundle(part))
    part.rename(target)
    return load_bundle(target)


def add_bundle(source: Path, folder: Path, check: Callable[[Bundle], object]) -> Bundle:
    """Copy a model bundle to ``folder/name/version``, or nothing.

    Args:
        source: folder of the bundle.
        folder: folder of added bundles.
        check: called with the copy before it gets its name; its exceptions are raised.

    Raises:
        BundleMissing: there is no bundle at ``source``.
        BundleDamaged: the bundle at ``source`` is damaged.
        UsageError: another bundle has this name and version, or the folder cannot be written.
    """
    given = load_bundle(source)
    for path in list_all_bundles(folder):
        if f"{path.parent.name}/{path.name}" == given.label:
            if load_bundle(path).digest == given.digest:
                return load_bundle(path)
            raise UsageError(f"{path} has the same name and version and other content: publish it as a new version")
    files = [MANIFEST_FILE, *given.manifest.files]
    target = folder / given.manifest.name / given.manifest.version
    try:
        part = _create_partial(target)
        try:
            for name in files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, part / name)
            check(load_bundle(part))
            part.rename(target)
        except BaseException:
            _remove_partial(part, files)
            raise
    except OSError as error:
        raise UsageError(
            f"the bundle cannot be copied to {folder} "
            f"({error.strerror}): give this user write permission there, or free space"
        ) from error
    return load_bundle(target)


def _create_partial(target: Path) -> Path:
    """Create a folder beside ``target`` that ``list_bundles`` leaves out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    part.chmod(0o755)
    return part


def _remove_partial(part: Path, files: list[str]) -> None:
    """Remove the copied files, and their folders if empty."""
    for name in files:
        (part / name).unlink(missing_ok=True)
    folders = {folder for name in files for folder in (part / name).parents if folder.is_relative_to(part)}
    for folder in sorted(folders, reverse=True):
        if folder.is_dir():
            folder.rmdir()
