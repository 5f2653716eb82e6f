"""What training delivers: a folder with a manifest that dictates everything, and the files that it vouches for."""

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
    """The fields that are used at run time, and the record of how the bundle came about.

    Attributes:
        manifest_schema: version of this structure.
        findings: one for each column of the network's ``logit`` output, in order.
        preprocessing_digest: must equal ``preprocessing.digest``.
        golden_tolerance: largest absolute difference in logit allowed against the golden vectors.
        training: data, counts, hashes, sources, licence, recipe, seeds, environment.
        metrics: measured figures with intervals, and on which films.
        files: path relative to the folder -> SHA-256 (hex) of the file's bytes.
        scope: for the detector of pictures that are no frontal chest film.
        reference: how the measured films were distributed, for `preread drift`; ``None`` in bundles that do not say.
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
            raise ValueError(f"manifest_schema is {self.manifest_schema}; this version reads {MANIFEST_SCHEMA}")
        if not (_SAFE_NAME.fullmatch(self.name) and _SAFE_NAME.fullmatch(self.version)):
            raise ValueError("name and version are lower-case letters, digits, dots and dashes")
        if self.preprocessing_digest != self.preprocessing.digest:
            raise ValueError("preprocessing_digest is not that of preprocessing")
        if not self.findings:
            raise ValueError("findings is empty")
        if self.reference is not None:
            if unknown := self.reference.probability.keys() - {finding.finding for finding in self.findings}:
                raise ValueError(f"reference speaks of {', '.join(sorted(unknown))}, of which the bundle says nothing")
            if unknown := self.reference.picture.keys() - {one.name for one in fields(ImageStatistics)}:
                raise ValueError(f"reference speaks of {', '.join(sorted(unknown))}, which no picture is measured by")
        for file in self.files:
            if os.path.isabs(file) or ".." in Path(file).parts:
                raise ValueError(f"files names {file}, outside the bundle")
        if missing := {WEIGHTS_FILE, GOLDEN_FILE, CARD_FILE, DETECTOR_FILE} - self.files.keys():
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        digest: SHA-256 (hex) of the manifest's bytes, which hold the hashes of all other files.
    """

    path: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """``name/version``, shown with every answer."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @cached_property
    def manifest_json(self) -> str:
        """The manifest as text."""
        return (self.path / MANIFEST_FILE).read_text(encoding="utf-8")

    @property
    def registration(self) -> dict[str, str]:
        """What the database keeps of a bundle: the arguments of ``register_bundle``."""
        of = self.manifest
        return {"name": of.name, "version": of.version, "digest": self.digest, "manifest": self.manifest_json}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(path: Path) -> Bundle:
    """Read a bundle's manifest and verify the hash of every file in it.

    Raises:
        BundleMissing: there is no manifest.
        BundleDamaged: the manifest is invalid, or a file is missing or differs.
    """
    file = path / MANIFEST_FILE
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleMissing(f"no bundle at {path}: {MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise BundleDamaged(f"{file} cannot be read: {error.strerror}") from error
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleDamaged(f"{file}: {where}: {first['msg']}") from None
    for name, expected in manifest.files.items():
        try:
            found = _sha256(path / name)
        except OSError as error:
            raise BundleDamaged(f"{path / name} cannot be read: {error.strerror}") from error
        if found != expected:
            raise BundleDamaged(f"{path / name} is not the file that its manifest names (SHA-256 differs)")
    return Bundle(path, manifest, hashlib.sha256(data).hexdigest())


def _order(path: Path) -> tuple[str, list[int], bool, str]:
    """By name, then numbers; a version with a suffix (``1.0.0-rc1``) stands before the one without."""
    numbers, _, suffix = path.name.partition("-")
    return path.parent.name, [int(part) if part.isdigit() else -1 for part in numbers.split(".")], not suffix, suffix


def installed(folder: Path | None = None) -> list[Path]:
    """Folders of the installed bundles, by name and rising version."""
    found = (file.parent for file in (folder or _FOLDER).glob(f"*/*/{MANIFEST_FILE}"))
    return sorted((path for path in found if not path.name.startswith(".")), key=_order)


def all_installed(added: Path | None) -> list[Path]:
    """Folders of the bundles that ship and of those that were added, by name and rising version."""
    return sorted(installed() + (installed(added) if added is not None else []), key=_order)


def added_bundle_folder(named: Path | None, database: Path | None) -> Path | None:
    """Return where added bundles lie: the folder that is named, else beside the SQLite file; ``None`` for neither."""
    if named is not None:
        return Path(os.path.abspath(named))
    return None if database is None else Path(f"{os.path.abspath(database)}-bundles")


def resolve(name: str | None = None, added: Path | None = None) -> Path:
    """Find a bundle by folder, by ``name/version``, by ``name`` (newest version), or the default one.

    Args:
        added: folder of the bundles that were added here. A name is looked for there too; the default is one that
            ships, so that adding one changes no answer.

    Raises:
        BundleMissing: there is none.
    """
    if name is not None and (Path(name) / MANIFEST_FILE).is_file():
        return Path(name)
    wanted = (name or DEFAULT_NAME).split("/")
    there = installed() if name is None else all_installed(added)
    found = [path for path in there if [path.parent.name, path.name][: len(wanted)] == wanted]
    if not found:
        here = ", ".join(f"{path.parent.name}/{path.name}" for path in there) or "none"
        raise BundleMissing(
            f"no bundle {name or DEFAULT_NAME} is installed, and no folder of that name holds one; installed: {here}"
        )
    return found[-1]


def publish(
    folder: Path,
    manifest: JSONObject,
    write: Callable[[Path], None],
    check: Callable[[Bundle], object] = lambda _: None,
) -> Bundle:
    """Make a new bundle at ``folder/name/version`` that is there whole or not at all.

    Args:
        manifest: every field but ``files``, which is filled in here.
        write: writes the files into the folder that it is given.
        check: looks at the finished bundle before it appears under its name, and raises what it will.

    Raises:
        UsageError: this version is there already; a version never changes.
        BundleDamaged: what was written does not verify.
    """
    target = folder / manifest["name"] / manifest["version"]
    if target.exists():
        raise UsageError(f"{target} exists: a published version never changes, choose a new one")
    part = _part_of(target)
    write(part)
    files = {str(file.relative_to(part)): _sha256(file) for file in sorted(part.rglob("*")) if file.is_file()}
    text = json.dumps({**manifest, "files": files}, indent=2, sort_keys=True, ensure_ascii=False)
    (part / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    check(load(part))
    part.rename(target)
    return load(target)


def add(source: Path, folder: Path, check: Callable[[Bundle], object]) -> Bundle:
    """Copy a bundle to ``folder/name/version``, where it is there whole or not at all.

    Args:
        check: looks at the copy before it appears under its name, and raises what it will.

    Raises:
        BundleMissing, BundleDamaged: there is no whole bundle at ``source``.
        UsageError: another bundle of this name and version is there, or the folder cannot be written.
    """
    given = load(source)
    for path in all_installed(folder):
        if f"{path.parent.name}/{path.name}" == given.label:
            if load(path).digest == given.digest:
                return load(path)
            raise UsageError(f"{path} is another bundle of the same name: a version never changes, publish a new one")
    files = [MANIFEST_FILE, *given.manifest.files]
    target = folder / given.manifest.name / given.manifest.version
    try:
        part = _part_of(target)
        try:
            for name in files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, part / name)
            check(load(part))
            part.rename(target)
        except BaseException:
            _take_back(part, files)
            raise
    except OSError as error:
        raise UsageError(f"{folder} cannot hold the bundle: {error.strerror}") from error
    return load(target)


def _part_of(target: Path) -> Path:
    """Make a folder beside ``target`` whose name no listing shows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    part.chmod(0o755)
    return part


def _take_back(part: Path, files: list[str]) -> None:
    """Remove exactly what was copied."""
    for name in files:
        (part / name).unlink(missing_ok=True)
    folders = {folder for name in files for folder in (part / name).parents if folder.is_relative_to(part)}
    for folder in sorted(folders, reverse=True):
        if folder.is_dir():
            folder.rmdir()
