"""Loading of a bundle with its self-check on this machine."""

from __future__ import annotations

from preread.cli.native_output import suppress_native_output
from preread.model import bundles
from preread.model.classifier import Classifier


def load_checked(path: str | None) -> tuple[Classifier, float]:
    """Load a bundle and compare its outputs with the reference outputs.

    Args:
        path: folder, name or name/version of the bundle; ``None`` for the newest that ships.

    Returns:
        The classifier, and the largest absolute difference in logit.

    Raises:
        BundleError: the bundle is missing or damaged, or its outputs differ on this machine.
    """
    loaded = bundles.load_bundle(bundles.find_bundle(path))
    with suppress_native_output():
        classifier = Classifier(loaded)
        difference = classifier.verify_reference_outputs()
    return classifier, difference
