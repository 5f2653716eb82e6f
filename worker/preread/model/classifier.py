"""Classifier: a loaded bundle. The only module that imports the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from preread.core.errors import BundleDamaged, BundleMismatch
from preread.core.types import FloatArray
from preread.imaging.preprocessing import preprocess_image
from preread.model.bundles import DETECTOR_FILE, GOLDEN_FILE, WEIGHTS_FILE, Bundle
from preread.model.out_of_scope import Detector


@dataclass(frozen=True, slots=True)
class RawOutput:
    """Output of the network for one image, before calibration.

    Attributes:
        logit: float32 [findings], before calibration.
        activation_map: float32 [cells, cells]; its mean plus the bias of the last layer is the first logit.
        embedding: float32 [features], the network's penultimate layer.
    """

    logit: FloatArray
    activation_map: FloatArray
    embedding: FloatArray


class Classifier:
    """Model bundle loaded for inference by one thread at a time.

    Args:
        bundle: a verified bundle.
        threads: number of threads of the runtime; one is fastest if inference processes use all cores.

    Attributes:
        bundle: the bundle.
        detector: detector of images that are not frontal chest radiographs.

    Raises:
        BundleDamaged: the network cannot be loaded, lacks one of its three outputs, or does not fit the manifest or the
            detector.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1) -> None:
        self.bundle = bundle
        try:
            self._interpreter = Interpreter(
                model_content=(bundle.path / WEIGHTS_FILE).read_bytes(), num_threads=threads
            )
            self._run = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise BundleDamaged(f"LiteRT cannot load the network {bundle.path / WEIGHTS_FILE}: {error}") from error
        (self._input,) = self._run.get_input_details()
        outputs = self._run.get_output_details()
        if missing := {"logit", "activation_map", "embedding"} - outputs.keys():
            raise BundleDamaged(
                f"{bundle.label}: the network lacks the output "
                f"{', '.join(sorted(missing))} of the three that it must have"
            )
        spec = bundle.manifest.preprocessing
        shape = self._run.get_input_details()[self._input]["shape"].tolist()
        if shape != (expected := [1, spec.rows, spec.columns, 1]):
            raise BundleDamaged(
                f"{bundle.label}: the network's input has the shape "
                f"{shape}; the manifest's preprocessing requires {expected}"
            )
        logits, findings = int(outputs["logit"]["shape"][-1]), len(bundle.manifest.findings)
        if logits != findings:
            raise BundleDamaged(
                f"{bundle.label}: the network has {logits} logits; the "
                f"{findings} findings of the manifest require {findings}"
            )
        self.detector = Detector.from_npz((bundle.path / DETECTOR_FILE).read_bytes(), bundle.manifest.scope)
        expected_features, features = len(self.detector.embedding.mean), int(outputs["embedding"]["shape"][-1])
        if expected_features != features:
            raise BundleDamaged(
                f"{bundle.label}: detector.npz is for {expected_features} features (embedding_mean); the network's "
                f"embedding has {features}"
            )

    def classify(self, batch: FloatArray) -> RawOutput:
        """Run the network on one preprocessed image.

        Args:
            batch: float32 [1, rows, columns, 1] in network units, as ``preprocessing.preprocess_image`` returns it.
        """
        output = self._run(**{self._input: batch})
        return RawOutput(
            logit=output["logit"][0].copy(),
            activation_map=output["activation_map"][0, :, :, 0].copy(),
            embedding=output["embedding"][0].copy(),
        )

    def verify_reference_outputs(self) -> float:
        """Compare the network's outputs here with the reference outputs.

        Returns:
            The largest absolute difference in logit.

        Raises:
            BundleMismatch: it is above the tolerance in the manifest.
        """
        golden = np.load(BytesIO((self.bundle.path / GOLDEN_FILE).read_bytes()))
        spec = self.bundle.manifest.preprocessing
        logits = np.stack([self.classify(preprocess_image(spec, pixels)).logit for pixels in golden["pictures"]])
        difference = float(np.abs(logits - golden["logit"]).max())
        if not difference <= self.bundle.manifest.golden_tolerance:
            raise BundleMismatch(
                f"on this machine bundle {self.bundle.label} differs from its reference outputs by {difference:.4f} in "
                f"logit; the limit is {self.bundle.manifest.golden_tolerance}"
            )
        return difference
