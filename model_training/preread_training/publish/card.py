"""The model card of a bundle, in Markdown, from its manifest.

It has twenty sections; none is left out if nothing is known.

The sections follow what CLAIM 2024, MI-CLAIM, TRIPOD+AI and STARD-AI ask of a report; their text is ``card.md.j2``.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from preread.core.types import JSONObject
from preread_training.analysis.perturbation import LUNG_BOX
from preread_training.publish.declaration import read_notes

_TEMPLATE = "card.md.j2"
_WIDTH = 110
_FEW = 200  # images without the finding on which a row of the calibration table rests
_MEASURES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "matthews_correlation": "Matthews correlation",
    "average_precision": "average precision",
}
_HELD_OUT = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")
_HIDDEN = {"border": "a border of 1/14", "wide_border": "a border of 2/14", "lungs": "the lung region"}


def render_card(manifest: JSONObject) -> str:
    """Render the model card of a bundle from its manifest.

    Args:
        manifest: every field but ``files``, as ``publish.publish_run`` and ``recalibrate.recalibrate_bundle`` make it.

    Returns:
        Markdown; of what was not measured it states so.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown for a terminal and a repository: nothing here is escaped for HTML.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("preread_training.publish", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(figure=_figure, percent=_percent, counted=_counted, flat=_flat)
    training = manifest["training"]
    measured_on = manifest["recalibrated"]["films"] if "recalibrated" in manifest else training["data"]
    text = environment.get_template(_TEMPLATE).render(
        manifest={"recalibrated": None, "scope": None, **manifest},
        training=training,
        data=training["data"],
        baselines={name: of["baselines"] for name, of in measured_on["findings"].items()},
        notes=read_notes(training),
        lung_box=LUNG_BOX,
        few=_FEW,
        measures=_MEASURES,
        held_out=_HELD_OUT,
        hidden=_HIDDEN,
    )
    return _wrap(text)


def _figure(value: float | None, digits: int = 4) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def _percent(value: float, digits: int = 1) -> str:
    return f"{value * 100:.{digits}f} %"


def _counted(values: JSONObject) -> str:
    said = (f"{name.replace('_', ' ')} {_said(value)}" for name, value in sorted(values.items()))
    return ", ".join(said) or "none were given"


def _said(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _flat(values: JSONObject, before: str = "") -> list[tuple[str, str]]:
    """Return names and values of nested records; the innermost is one line."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        said = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            rows += _flat(value, f"{said}: ")
        else:
            rows.append((said, _counted(value) if isinstance(value, dict) else _said(value)))
    return rows


def _wrap(text: str) -> str:
    """Wrap paragraphs and list items to one width."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.lstrip().startswith(("|", "#")):
            blocks.append("\n".join(line.strip() for line in block.splitlines() if line.strip()))
            continue
        parts = re.split(r"^(?=- )", block.strip(), flags=re.MULTILINE)
        filled = [
            textwrap.fill(
                " ".join(part.split()),
                _WIDTH,
                subsequent_indent="  " if part.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for part in parts
            if part.strip()
        ]
        blocks.append("\n".join(filled))
    return "\n\n".join(blocks) + "\n"
