"""Declarations of a bundle: intended use, codes, training images.

The facts of the published set stand in ``pneumonia-children.json``, a declaration like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from preread.core.errors import UsageError
from preread.core.types import IntendedUse, JSONObject
from preread.model.bundles import Manifest

# Digest over images, labels, patients and folds in the manifests of the shipped bundle, which are older than notes.
SHIPPED_DATA = "e8aa2d08c1470b23268d757af5682b3444be64ca7734606cf989c4f1df663bd8"


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes on one data set for the model card (Markdown), may be empty.

    Attributes:
        not_for: section 2, for what the bundle is not made.
        ``films``: section 3, how the images were made and what they show.
        splits: section 4, how patients and splits were told apart.
        shortcuts: section 5, what gives a label away in these images, and what was done about it.
        choice: section 7, how the recipe was chosen, and which other images influenced it.
        hidden: section 15, the rest of a sentence on the hidden lung region of these images.
    """

    not_for: tuple[str, ...] = ()
    films: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    shortcuts: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """Declaration of a bundle's publisher; manifest and card repeat it.

    Attributes:
        intended_use: the images for which the bundle is made.
        codes: for each finding its code, scheme first (``SCT:233604007``).
        source: of the images: authors, title, where they were published, or the site.
        films_licence: licence of the images.
        labelled_by: who labelled the images, and how, in words.
        licence: of the bundle, an SPDX identifier.
        notes: further notes on these images for the card; empty if nothing is declared.
    """

    intended_use: IntendedUse
    codes: dict[str, str]
    source: str
    films_licence: str
    labelled_by: str
    licence: str = "Apache-2.0"
    notes: Notes = field(default_factory=Notes)

    def code(self, finding: str) -> str:
        """Return the declared code of a finding.

        Args:
            finding: its name.

        Raises:
            UsageError: the declaration has none.
        """
        if finding not in self.codes:
            raise UsageError(f"the declaration has no code for the finding {finding!r}: add it to `codes`")
        return self.codes[finding]

    def to_json(self) -> JSONObject:
        """Return the declaration as ``read_declaration`` reads it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Release:
    """Version of a bundle that is to be published.

    Attributes:
        folder: of bundles; the version's own folder is made below it.
        version: new for this bundle; a published version never changes.
        prevalence: to which probabilities are calibrated, in (0, 1).
        declaration: of the images to which calibration and operating point are fitted, and of nothing else.
    """

    folder: Path
    version: str
    prevalence: float
    declaration: Declaration


_DECLARATION = TypeAdapter(Declaration)
_NOTES = TypeAdapter(Notes)

PNEUMONIA_CHILDREN = _DECLARATION.validate_json(
    resources.files("preread_training.publish").joinpath("pneumonia-children.json").read_bytes()
)


def make_declaration_template() -> JSONObject:
    """Return a declaration to fill in.

    Unknown values are ``null`` or a text in angle brackets.
    """
    return {
        "intended_use": {
            **asdict(PNEUMONIA_CHILDREN.intended_use),
            "age_min_years": None,
            "age_max_years": None,
            "statement": "<for what and for whom the bundle is made; that it is no medical device>",
        },
        "codes": {"<finding, as the labels name it, in lower case>": "<its code, scheme first, e.g. SCT:233604007>"},
        "source": "<whose images: authors, title and where they were published, or the site>",
        "films_licence": "<under which the images may be used>",
        "labelled_by": "<who looked at them, and how>",
        "licence": "<of the bundle, an SPDX identifier>",
        "notes": asdict(Notes()),
    }


def read_notes(training: JSONObject) -> Notes:
    """Return the notes on the training images in a manifest.

    The shipped bundle's manifest is older than notes: for its images, those of ``pneumonia-children.json`` are
    returned.

    Args:
        training: the manifest's record of training.
    """
    if "notes" in training:
        return _NOTES.validate_python(training["notes"])
    return PNEUMONIA_CHILDREN.notes if training["data"]["digest"] == SHIPPED_DATA else Notes()


def read_declaration(findings: Sequence[str], file: Path | None, *, published: bool = False) -> Declaration:
    """Read the declaration of a bundle, or take the built-in one.

    The built-in one is for the images of the published data set.

    Args:
        findings: of the data set.
        file: JSON; ``None``: the built-in declaration.
        published: true if the images are those of the published set, see ``dataset.Data.published``.

    Raises:
        UsageError: the file is no declaration (the field is named), is not filled in, lacks a finding's code, repeats
            notes of the published set for other images, or is needed and not given.
    """
    if file is None:
        return _built_in(findings, published=published)
    declared = _validated(file, _read(file))
    for finding in findings:
        declared.code(finding)
    return declared if published else _of_its_own(file, declared)


def read_calibration_declaration(manifest: Manifest, file: Path | None, *, published: bool = False) -> Declaration:
    """Read the declaration of the images used for calibration.

    Intended use and codes stay as they are.

    Args:
        manifest: of the bundle; if the file has an intended use, codes or a licence, they must be the bundle's.
        file: JSON; ``None``: the built-in declaration.
        published: true if the images are those of the published set.

    Raises:
        UsageError: see ``read_declaration``; or the file contradicts the bundle.
    """
    codes = {spec.finding: spec.code for spec in manifest.findings}
    if file is None:
        return _built_in(list(codes), published=published)
    kept = {"intended_use": asdict(manifest.intended_use), "codes": codes, "licence": manifest.licence}
    declared = _validated(file, {**kept, **_read(file)})
    for name, value in (("intended_use", manifest.intended_use), ("codes", codes), ("licence", manifest.licence)):
        if getattr(declared, name) != value:
            raise UsageError(
                f"{file}: {name} differs from that of {manifest.name}/{manifest.version}, which a calibration cannot "
                "change: leave it out"
            )
    return declared if published else _of_its_own(file, declared)


def _built_in(findings: Sequence[str], *, published: bool) -> Declaration:
    if published and tuple(findings) == tuple(PNEUMONIA_CHILDREN.codes):
        return PNEUMONIA_CHILDREN
    raise UsageError(
        f"no declaration is known for these images, labelled {', '.join(findings)}: fill one in that "
        "`preread-train declaration` prints, and give it with `--declaration FILE`"
    )


def _read(file: Path) -> JSONObject:
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): check the path of --declaration") from None
    except ValueError as error:
        raise UsageError(f"{file} is no JSON ({error}): correct it") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no object: write a declaration as `preread-train declaration` prints it")
    return found


def _validated(file: Path, found: JSONObject) -> Declaration:
    if open_fields := [where for where, text in _texts(found) if text.startswith("<") and text.endswith(">")]:
        raise UsageError(f"{file}: {open_fields[0]} is not filled in: replace the text in angle brackets")
    try:
        return _DECLARATION.validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{file}: {where} is not valid ({first['msg']}): correct it") from None


def _of_its_own(file: Path, declared: Declaration) -> Declaration:
    # keys of the record, which are alike in all of them, have no blank
    published = {text for _, text in _texts(asdict(PNEUMONIA_CHILDREN.notes)) if " " in text}
    if repeated := [where for where, text in _texts(asdict(declared.notes)) if text in published]:
        raise UsageError(
            f"{file}: notes.{repeated[0]} repeats a note on the published set, and these are other images: remove it"
        )
    return declared


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a nested record with its place, keys of records too."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, of in value.items():
            yield where or str(key), str(key)
            yield from _texts(of, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for number, of in enumerate(value):
            yield from _texts(of, f"{where}.{number}")
