"""Public API of Preread: analysis of chest radiographs.

Two functions, and the types of what they return. An image is a DICOM, JPEG or PNG file::

    >>> import preread
    >>> classifier = preread.load_bundle()
    >>> result = preread.assess("chest.dcm", classifier, population="children-1-5y")
    >>> isinstance(result, preread.Assessment)
    True
    >>> [finding] = result.findings
    >>> print(f"{finding.finding}: {finding.answer}, {finding.probability:.2f} at prevalence {finding.prevalence}")
    pneumonia: uncertain, 0.47 at prevalence 0.5

An image outside the intended use of the bundle is not assessed. That is a result with a reason, not an error::

    >>> refusal = preread.assess("lateral.dcm", classifier, population="children-1-5y")
    >>> isinstance(refusal, preread.Refusal)
    True
    >>> print(f"{refusal.code}: {refusal.reason}")
    view: the view is LATERAL (LL); the bundle reads AP, PA

Preread is not a medical device. Names outside ``__all__`` may change with any version.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from preread.core.errors import BundleError, PrereadError, UnreadableError, UsageError
    from preread.core.types import (
        Answer,
        Assessment,
        Caveat,
        Finding,
        Identity,
        ImageStatistics,
        IntendedUse,
        Population,
        PredictiveValues,
        Radiograph,
        Refusal,
        RefusalCode,
    )
    from preread.model.bundles import Bundle, Manifest
    from preread.model.classifier import Classifier

    __version__: str

__all__ = [
    "Answer",
    "Assessment",
    "Bundle",
    "BundleError",
    "Caveat",
    "Classifier",
    "Finding",
    "Identity",
    "ImageStatistics",
    "IntendedUse",
    "Manifest",
    "Population",
    "PredictiveValues",
    "PrereadError",
    "Radiograph",
    "Refusal",
    "RefusalCode",
    "UnreadableError",
    "UsageError",
    "__version__",
    "assess",
    "load_bundle",
]

# Imported on first use (PEP 562): numpy and the inference runtime take longer than most commands.
_MODULES = {
    "preread.core.errors": ("BundleError", "PrereadError", "UnreadableError", "UsageError"),
    "preread.core.types": (
        *("Answer", "Assessment", "Caveat", "Finding", "Identity", "ImageStatistics", "IntendedUse"),
        *("Population", "PredictiveValues", "Radiograph", "Refusal", "RefusalCode"),
    ),
    "preread.model.bundles": ("Bundle", "Manifest"),
    "preread.model.classifier": ("Classifier",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def load_bundle(bundle: str | os.PathLike[str] | None = None, *, threads: int = 1) -> Classifier:
    """Load a model bundle, verify its hashes and repeat its reference outputs.

    Args:
        bundle: folder of a bundle, ``name/version``, or ``name`` (newest version); ``None`` loads the bundle that ships
            with Preread.
        threads: number of threads of the inference runtime, at least 1.

    Returns:
        The loaded network; ``Classifier.bundle`` is the bundle with its manifest. It serves one thread at a time.

    Raises:
        BundleError: the bundle is missing or damaged, or does not reproduce its reference outputs on this machine.
    """
    import os

    from preread.model import bundles
    from preread.model.classifier import Classifier

    path = bundles.find_bundle(None if bundle is None else os.fspath(bundle))
    classifier = Classifier(bundles.load_bundle(path), threads=threads)
    classifier.verify_reference_outputs()
    return classifier


def assess(
    image: bytes | str | os.PathLike[str], classifier: Classifier, *, population: Population | str
) -> Assessment | Refusal:
    """Assess one image with a bundle.

    The image is decoded in this process. ``preread run`` and ``preread assess`` decode in confined child processes;
    prefer them for files of unknown origin.

    Args:
        image: content of a DICOM, JPEG or PNG file, or the path of one.
        classifier: bundle to use, from ``load_bundle``.
        population: what is certain of the patient: ``children-1-5y``, ``research`` (ages and views outside the intended
            use are assessed with a caveat) or ``undeclared`` (an image that states no age is refused). It never
            overrides a tag.

    Returns:
        The findings, or the reason why the image is outside the intended use.

    Raises:
        UsageError: ``population`` is none of the three values.
        UnreadableError: the content cannot be read as a radiograph; the subclass and its ``code`` give the reason.
        OSError: the file cannot be read.
    """
    from preread.core.errors import UsageError
    from preread.core.types import Declared, Population
    from preread.imaging.radiograph import DEFAULT_LIMITS
    from preread.model import assess as model

    if population not in list(Population):
        values = ", ".join(Population)
        raise UsageError(f"population is {population!r}: pass one of {values}, whichever is certain of the patient")
    if not isinstance(image, bytes):
        with open(image, "rb") as file:
            image = file.read(DEFAULT_LIMITS.max_bytes + 1)
    return model.assess(image, classifier, Declared(Population(population)))


def __getattr__(name: str) -> Any:
    """Import a public type when it is first used."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("preread")
        except PackageNotFoundError:  # run from a source tree that is not installed
            value = "unknown"
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
