"""A declaration as a site would fill it in, for tests that publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preread_training.publish.declaration import make_declaration_template

CODES = {"pneumonia": "SCT:233604007", "effusion": "SCT:60046008", "nodule": "SCT:786838002"}


def declare(folder: Path, *findings: str, **changed: Any) -> Path:
    """Write the template, filled in, to ``mine.json`` in a folder."""
    declared = make_declaration_template()
    declared["intended_use"] |= {"age_min_years": 18.0, "age_max_years": 90.0, "statement": "For tests of ours."}
    declared |= {
        "codes": {finding: CODES[finding] for finding in findings or ("pneumonia",)},
        "source": "synthetic images of this test",
        "films_licence": "none is needed",
        "labelled_by": "the test itself",
        "licence": "Apache-2.0",
        **changed,
    }
    file = folder / "mine.json"
    file.write_text(json.dumps(declared), encoding="utf-8")
    return file
