"""What a bundle says of itself that no film can tell: what it is for, what its findings are called, whose films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from worker.domain import IntendedUse, JSONObject
from worker.errors import UsageError


@dataclass(frozen=True, slots=True)
class Declaration:
    """Written by whoever publishes; goes into the manifest and the model card as it stands.

    Attributes:
        codes: for each finding its code, scheme first (``SCT:233604007``).
        source: whose films they are: authors, title, where they were published, or the site.
        films_licence: under which the films may be used.
        labelled_by: who looked, and how, in words.
        licence: of the bundle, an SPDX identifier.
    """

    intended_use: IntendedUse
    codes: dict[str, str]
    source: str
    films_licence: str
    labelled_by: str
    licence: str = "Apache-2.0"

    def code(self, finding: str) -> str:
        """The finding's code.

        Raises:
            UsageError: the declaration has none.
        """
        if finding not in self.codes:
            raise UsageError(f"the declaration has no code for the finding {finding!r}: add it to `codes`")
        return self.codes[finding]

    def to_json(self) -> JSONObject:
        """The same as ``read`` takes it."""
        return asdict(self)


PNEUMONIA_CHILDREN = Declaration(
    intended_use=IntendedUse(
        modalities=("CR", "DX"),
        view_positions=("AP", "PA"),
        age_min_years=1.0,
        age_max_years=6.0,
        body_parts=("CHEST",),
        statement=(
            "First read of frontal chest radiographs of children of 1 to 5 years for signs of pneumonia, for research "
            "and for ordering a worklist under a doctor's eyes. No medical device: a film that is not flagged excludes "
            "nothing."
        ),
    ),
    codes={"pneumonia": "SCT:233604007"},
    source=(
        "D. Kermany, K. Zhang, M. Goldbaum, 'Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
        "Classification', Mendeley Data, doi 10.17632/rscbjbr9sj.2"
    ),
    films_licence="CC BY 4.0",
    labelled_by="two graders, and a third for part of the set; one hospital; images of poor quality left out",
)

_DECLARATION = TypeAdapter(Declaration)


def declaration_for(findings: Sequence[str], file: Path | None) -> Declaration:
    """Read a declaration, or take the built-in one where it fits.

    Raises:
        UsageError: the file is no declaration (the field is named), lacks a finding's code, or is needed and not given.
    """
    if file is None:
        if tuple(findings) != tuple(PNEUMONIA_CHILDREN.codes):
            raise UsageError(
                f"the films are labelled {', '.join(findings)}: say with `--declaration FILE` what the bundle is for; "
                "`preread-train declaration` prints one to start from"
            )
        return PNEUMONIA_CHILDREN
    try:
        declared = _DECLARATION.validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{file}: {where}: {first['msg']}") from None
    for finding in findings:
        declared.code(finding)
    return declared
